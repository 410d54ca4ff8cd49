// Where in the program's Python a thread waits: its frames, innermost first, as numbers of places (file, line, function). Python's functions are
// found in the process; all are of its C API since 3.10, so that nothing here is built for a version of it.
//
// Frames may be read with the interpreter's lock only, and a thread that waits for the server has given it up (.item() does before it comes to us).
// It must not take it again: it may hold a lock of PyTorch's (the caching allocator synchronises events under its own), for which another thread
// waits that has Python's. So a thread of ours asks in its stead. That one holds nothing while it waits for Python's lock, so nobody can wait for it;
// the thread that asked goes on waiting for the server, and when it is done there gives the answer some milliseconds more, then goes on without. What
// the answer says is true, because it is read with Python's lock while the question stands: the thread that asked is still in its call, and could not
// run a line of Python without that lock. Garbage collection is off meanwhile: it would run the program's own code, with any locks, in our thread. A
// thread that has the lock as it comes here looks for itself. One without Python (autograd's) is answered with the frames of the one
// thread that has called backward() and waits for it; of several nobody knows whose it is.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace djinn::python {

struct Place {
  std::string file, function;
  int line;
};
// Numbers begin with 1 and stay.
Place place(uint32_t number);

struct Frame {
  const void* code;  // of the interpreter; kept alive if it has a place
  uint32_t place;    // 0: there are too many
};

struct Question;
// A question about the thread that makes it, from its construction to answer(). Whoever waits for a lock that is held meanwhile waits for the answer
// too, 20 ms at the most.
class Where {
 public:
  Where();
  ~Where();
  Where(const Where&) = delete;
  Where& operator=(const Where&) = delete;
  // Once. Empty: no Python, or no answer in time.
  std::vector<Frame> answer();

 private:
  std::shared_ptr<Question> question_;
};

// In a forked child the thread that asks does not exist: nothing is asked any more.
void abandon_in_child();

}  // namespace djinn::python
