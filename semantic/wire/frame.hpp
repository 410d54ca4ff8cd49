// Frames: what one ZeroMQ message on a data connection holds. Part 0 is a FrameHeader followed by `count` records {RecordHeader, payload};
// the further parts are bulk data, which records name by position (each record with `bulk` = n owns the next n parts).
// Client → worker frames carry commands; worker → client frames ("reports") carry records about tickets. docs/wire.md is the prose of this file.
#pragma once
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "semantic/wire/codec.hpp"
#include "semantic/wire/limits.hpp"

namespace djinn::wire {

constexpr uint32_t kFrameMagic = 0x464e4a44;  // "DJNF"
constexpr uint16_t kVersion = 1;

enum class FrameKind : uint16_t {
  hello = 1,  // client → worker, first on a connection: payload is Hello. Anything else from an unknown peer is dropped and counted.
  batch = 2,  // client → worker: commands
  ping = 3,   // both ways, empty: heartbeat; answered with pong
  pong = 4,
  goodbye = 5,  // client → worker: the session ends now; no records
  welcome = 6,  // worker → client: answer to hello, no records
  report = 7,   // worker → client: records; header.ack = every ticket up to it has been executed
  refused = 8,  // worker → client: the session is over; one error record says why
};

struct FrameHeader {
  uint32_t magic = kFrameMagic;
  uint16_t version = kVersion;
  FrameKind kind = FrameKind::batch;
  uint64_t session = 0;
  uint64_t first_ticket = 0;  // ticket of the first record of a batch; the others follow without a gap
  uint64_t ack = 0;           // client: every report about tickets up to this has arrived; worker: every ticket up to this has been executed
  uint64_t report = 0;        // worker → client: number of this report, from 1, without a gap (client → worker: the last report received)
  uint32_t incarnation = 0;   // of the session: 1 at open, counted up by a resume
  uint32_t count = 0;         // records
  uint32_t length = 0;        // bytes of records after this header
  uint32_t bulk = 0;          // further message parts
  uint64_t reserved = 0;      // zero
};
static_assert(sizeof(FrameHeader) == 64 && std::is_trivially_copyable_v<FrameHeader>);

enum RecordFlag : uint16_t {
  kFlagCall = 1,    // the sender waits for a reply record
  kFlagScoped = 2,  // issued inside an op scope: the op computes, this call is there to be validated (--check) or for annotation
};

struct RecordHeader {
  uint32_t opcode = 0;
  uint16_t flags = 0;
  uint16_t bulk = 0;  // message parts that belong to this record
  uint32_t size = 0;  // payload bytes after this header, a multiple of 8
  uint32_t reserved = 0;
};
static_assert(sizeof(RecordHeader) == 16 && std::is_trivially_copyable_v<RecordHeader>);

// Payload of a hello frame, instead of records.
struct Hello {
  uint8_t token[16] = {};
};
static_assert(sizeof(Hello) == 16);

struct Record {
  RecordHeader head;
  std::span<const std::byte> payload;
  uint32_t bulk_first = 0;  // index of its first bulk part, 0 = the part after the header's
};

// Why a frame was refused. Counted per reason by the server.
enum class FrameError : uint8_t { none, too_short, bad_magic, bad_version, bad_kind, bad_length, bad_count, bad_bulk, bad_record, reserved_not_zero };
std::string_view name(FrameError e);

// Checks everything that can be checked without knowing the opcodes: sizes add up, records tile the frame, bulk counts add up to the parts that
// came. `bulk_parts` is the number of further message parts received. On success `records` views into `frame`.
FrameError parse_frame(std::span<const std::byte> frame, size_t bulk_parts, FrameHeader& header, std::vector<Record>& records);

}  // namespace djinn::wire
