// The worker process: one session, then the end. Three parts share it. The executor (the main thread: libtorch's thread team belongs to it) executes
// batches in order. The io thread owns the waiting: for frames, for the broker, for the connection's end. Whoever finds a frame handles it ("pump"),
// so that an idle executor takes its next batch from the socket itself instead of being woken by another thread.
#pragma once

namespace djinn::server {

// argv of a worker: djinn-gpu-server --worker BROKER_PID, with the channel to the broker as this descriptor.
constexpr int kChannelDescriptor = 3;
constexpr const char* kWorkerFlag = "--worker";

int worker_main(int broker_pid);

}  // namespace djinn::server
