/* Between libdjinn.so and libdjinn_link.so (dlopened RTLD_LOCAL at the first CUDA call, so that its libzmq never enters the program's global
 * scope). C, no exception crosses. The link knows sockets, heartbeats, emulated networks and control messages; it knows nothing of commands. */
#pragma once
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

#define DJINN_LINK_VERSION 2
typedef struct djinn_link djinn_link;

typedef struct djinn_part { /* one message part to send or received */
  const void* data;
  size_t size;
  void (*release)(void* data, void* hint); /* sending: called once when the bytes are no longer needed, maybe from an I/O thread; null = static */
  void* hint;
} djinn_part;

typedef struct djinn_link_config {
  const char* endpoint; /* of the broker's control port or front door: tcp://HOST:PORT or ipc://PATH */
  const char* program;
  const char* torch; /* version of libtorch in the process or "" */
  const char* torch_directory;
  int level;              /* control::Level */
  const uint64_t* ranges; /* pairs {address, size} */
  size_t range_count;
  unsigned open_timeout_ms, heartbeat_ms, lost_ms; /* lost_ms: a peer whose connection stands but who is silent is lost after this */
  const char* emulate;                             /* DJINN_LINK: "rtt=1ms,bandwidth=1Gbit,seed=7,cut=0.001,…", null = the real network */
  int check_peer_uid;                              /* ipc endpoints of the embedded default: refuse a server of another user */
} djinn_link_config;

typedef struct djinn_link_device {
  const char* name;
  uint64_t total_memory, lease_bytes;
  uint32_t major, minor, multiprocessors, threads_per_multiprocessor, clock_khz, l2_bytes;
} djinn_link_device;

typedef struct djinn_link_opened { /* strings and lists live as long as the link */
  uint64_t session, range_address, range_size;
  uint32_t incarnation, worker_pid, server_pid, threads;
  int level, checks, computes_kernels;
  const char *server_host, *server_version, *torch, *endpoint;
  const djinn_link_device* devices; /* at least one */
  size_t device_count;
  const char* const* ops;
  size_t op_count;
  int relayed; /* through the front door */
} djinn_link_opened;

typedef struct djinn_link_events {
  void* self;
  /* A whole report frame, header included, with its bulk parts. Called by whichever thread drives the socket, one at a time; may send, must not
   * drive. */
  void (*on_frame)(void* self, const void* frame, size_t size, const djinn_part* bulk, size_t bulk_count);
  /* Once, when the session is over: `reason` names the server and why. From whichever thread notices, maybe inside its own send. */
  void (*on_lost)(void* self, const char* reason);
  /* From the pump thread, about twice a second: nothing stays unflushed longer than that. */
  void (*on_tick)(void* self);
} djinn_link_events;

typedef struct djinn_link_stats {
  uint64_t messages_sent, bytes_sent, messages_received, bytes_received, heartbeats;
  uint64_t ignored; /* messages that are no frames of this session */
} djinn_link_stats;

typedef struct djinn_link_api {
  uint32_t version, size;
  /* Opens a session: control exchange, worker connection, hello/welcome. Returns null and fills `error` with one sentence. */
  djinn_link* (*open)(const djinn_link_config*, const djinn_link_events*, djinn_link_opened*, char* error, size_t error_size);
  /* Sends one frame: part 0 is copied, bulk parts are zero-copy. Thread-safe. 0 = lost. */
  int (*send)(djinn_link*, const void* frame, size_t size, const djinn_part* bulk, size_t bulk_count);
  /* The calling thread drives the socket for at most this long, delivering what has arrived through on_frame (a waiter that polls saves the hop
   * through the link thread). Returns the number of frames delivered. */
  int (*drive)(djinn_link*, unsigned microseconds);
  void (*stats)(djinn_link*, djinn_link_stats*);
  /* Says goodbye, waits at most `milliseconds` for everything sent to leave. */
  void (*close)(djinn_link*, unsigned milliseconds);
  /* In a forked child: closes the inherited descriptors of the connection and nothing else (async-signal-safe). */
  void (*abandon_in_child)(djinn_link*);
} djinn_link_api;

const djinn_link_api* djinn_link_get(uint32_t version);
typedef const djinn_link_api* (*djinn_link_get_fn)(uint32_t);

#ifdef __cplusplus
}
#endif
