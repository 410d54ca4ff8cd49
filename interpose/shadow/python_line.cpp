// See python_line.hpp.
#include "interpose/shadow/python_line.hpp"

#include <dlfcn.h>
#include <string.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>

#include "semantic/abi/thread.hpp"

namespace djinn::python {

namespace {

// Frames of one stack: deeper ones are seldom the program's own, and each costs a tenth of a microsecond.
constexpr size_t kFramesMax = 64;
// Places of the process: a large program has some thousand lines that ever wait.
constexpr size_t kPlacesMax = 1 << 16;
// Who has Python's lock gives it up within 5 ms when another asks for it, unless it is in a long call of C that keeps it.
constexpr auto kPatience = std::chrono::milliseconds(20);

struct Object;
struct ThreadState;
struct Interpreter;

struct Api {
  const char* (*GetVersion)();
  int (*IsInitialized)();
  int (*IsFinalizing)();
  ThreadState* (*ThisThreadState)();
  ThreadState* (*CurrentThreadState)();  // that has the lock
  int (*Ensure)();
  void (*Release)(int);
  Interpreter* (*GetInterpreter)();
  ThreadState* (*ThreadHead)(Interpreter*);
  ThreadState* (*ThreadNext)(ThreadState*);
  Object* (*FrameOfThread)(ThreadState*);
  Object* (*FrameBack)(Object*);
  Object* (*FrameCode)(Object*);
  int (*FrameLine)(Object*);
  Object* (*GetAttribute)(Object*, const char*);
  const char* (*Text)(Object*, ssize_t*);
  void (*DecRef)(Object*);
  void (*ClearError)();
  int (*DisableCollector)();
  int (*EnableCollector)();

  bool find() {
    auto get = [](auto& f, const char* name, const char* older = nullptr) {
      f = reinterpret_cast<std::decay_t<decltype(f)>>(dlsym(RTLD_DEFAULT, name));
      if (!f && older) f = reinterpret_cast<std::decay_t<decltype(f)>>(dlsym(RTLD_DEFAULT, older));
      return f != nullptr;
    };
    return get(GetVersion, "Py_GetVersion") && get(IsInitialized, "Py_IsInitialized") && get(IsFinalizing, "Py_IsFinalizing", "_Py_IsFinalizing") &&
           get(ThisThreadState, "PyGILState_GetThisThreadState") &&
           get(CurrentThreadState, "PyThreadState_GetUnchecked", "_PyThreadState_UncheckedGet") && get(Ensure, "PyGILState_Ensure") &&
           get(Release, "PyGILState_Release") && get(GetInterpreter, "PyInterpreterState_Get") && get(ThreadHead, "PyInterpreterState_ThreadHead") &&
           get(ThreadNext, "PyThreadState_Next") && get(FrameOfThread, "PyThreadState_GetFrame") && get(FrameBack, "PyFrame_GetBack") &&
           get(FrameCode, "PyFrame_GetCode") && get(FrameLine, "PyFrame_GetLineNumber") && get(GetAttribute, "PyObject_GetAttrString") &&
           get(Text, "PyUnicode_AsUTF8AndSize") && get(DecRef, "Py_DecRef") && get(ClearError, "PyErr_Clear") &&
           get(DisableCollector, "PyGC_Disable") && get(EnableCollector, "PyGC_Enable");
  }
  // Without the lock that keeps the others still nothing may be read.
  bool has_lock() const { return !strstr(GetVersion(), "free-threading"); }
  bool runs() const { return IsInitialized() && !IsFinalizing(); }
};
// Null without Python. Looked for until it is there: CUDA may be called before the interpreter's library is loaded.
const Api* api() {
  static std::atomic<Api*> found{nullptr};
  if (Api* a = found.load(std::memory_order_acquire)) return a;
  auto fresh = std::make_unique<Api>();
  if (!fresh->find() || !fresh->has_lock()) return nullptr;
  Api* none = nullptr;
  if (found.compare_exchange_strong(none, fresh.get())) return fresh.release();
  return none;
}

// ---- places ----

struct Places {
  std::mutex mutex;
  std::deque<Place> all;                                    // by number - 1
  std::map<std::pair<Object*, int>, uint32_t> of_code;      // a code object that is here is kept alive: its address stays its own
  std::map<std::pair<std::string, int>, uint32_t> of_text;  // the same line of a code object that was made again (reload, another closure)
};
Places& places() {
  static Places* p = new Places;
  return *p;
}

std::string text_of(const Api& py, Object* code, const char* attribute) {
  Object* o = py.GetAttribute(code, attribute);
  const char* text = o ? py.Text(o, nullptr) : nullptr;
  std::string s = text ? text : "?";
  if (o) py.DecRef(o);
  if (!text) py.ClearError();
  return s;
}

// With Python's lock; takes over the reference to the code.
uint32_t number_of(const Api& py, Object* code, int line) {
  Places& p = places();
  {
    std::lock_guard lock(p.mutex);
    if (auto i = p.of_code.find({code, line}); i != p.of_code.end()) return py.DecRef(code), i->second;
  }
  Place fresh{text_of(py, code, "co_filename"), text_of(py, code, "co_name"), line};
  std::lock_guard lock(p.mutex);
  if (p.of_code.size() >= kPlacesMax) return py.DecRef(code), 0;
  auto [i, isnew] = p.of_text.try_emplace({fresh.file + ":" + fresh.function, line}, static_cast<uint32_t>(p.all.size() + 1));
  if (isnew) p.all.push_back(std::move(fresh));
  p.of_code[{code, line}] = i->second;
  return i->second;
}

// With Python's lock: the frames of a thread that cannot run meanwhile.
std::vector<Frame> frames_of(const Api& py, ThreadState* thread) {
  std::vector<Frame> frames;
  Object* frame = py.FrameOfThread(thread);
  while (frame && frames.size() < kFramesMax) {
    Object* code = py.FrameCode(frame);
    frames.push_back({code, number_of(py, code, py.FrameLine(frame))});
    Object* outer = py.FrameBack(frame);
    py.DecRef(frame);
    frame = outer;
  }
  if (frame) py.DecRef(frame);
  return frames;
}

// It called backward(), and waits for autograd's threads.
bool in_backward(const std::vector<Frame>& frames) { return !frames.empty() && place(frames[0].place).function == "_engine_run_backward"; }

// With Python's lock. `thread`: null if it has nothing to do with Python.
std::vector<Frame> look(const Api& py, ThreadState* thread) {
  int collected = py.DisableCollector();
  std::vector<Frame> frames;
  if (thread) frames = frames_of(py, thread);
  size_t backwards = 0;
  for (ThreadState* t = frames.empty() ? py.ThreadHead(py.GetInterpreter()) : nullptr; t; t = py.ThreadNext(t)) {
    auto others = frames_of(py, t);
    if (in_backward(others) && ++backwards == 1) frames = std::move(others);
  }
  if (backwards > 1) frames.clear();  // whose it is nobody knows
  if (collected) py.EnableCollector();
  return frames;
}

}  // namespace

// ---- asking ----

struct Question {
  enum class State : uint8_t { asked, read, answered, withdrawn };
  ThreadState* thread;
  State state = State::asked;
  std::vector<Frame> frames;
};

namespace {

struct Asker {
  std::mutex mutex;
  std::condition_variable questions, answers;
  std::deque<std::shared_ptr<Question>> queue;
  bool started = false;
  std::atomic<bool> gone{false};  // in a forked child
};
Asker& asker() {
  static Asker* a = new Asker;
  return *a;
}

void answer_all(const Api& py) {
  Asker& a = asker();
  std::unique_lock lock(a.mutex);
  while (!a.queue.empty()) {
    auto q = std::move(a.queue.front());
    a.queue.pop_front();
    if (q->state == Question::State::withdrawn) continue;
    q->state = Question::State::read;
    lock.unlock();
    auto frames = look(py, q->thread);
    lock.lock();
    q->frames = std::move(frames);
    q->state = Question::State::answered;
    a.answers.notify_all();
  }
}

void await_question() {
  Asker& a = asker();
  std::unique_lock lock(a.mutex);
  a.questions.wait(lock, [&] { return !a.queue.empty(); });
}

// Nothing with a destructor lives across Ensure: an interpreter that is ending ends the threads that wait for its lock there and then.
void* run(void*) {
  for (;;) {
    await_question();
    const Api* py = api();
    if (!py->runs()) return nullptr;
    int state = py->Ensure();
    answer_all(*py);
    py->Release(state);
  }
}

void start_locked(Asker& a) {
  if (a.started) return;
  a.started = true;
  start_detached(run, "djinn-python");
}

}  // namespace

Where::Where() {
  const Api* py = api();
  Asker& a = asker();
  if (!py || a.gone || !py->runs()) return;
  ThreadState* mine = py->ThisThreadState();
  question_ = std::make_shared<Question>(Question{mine, Question::State::asked, {}});
  if (mine && py->CurrentThreadState() == mine) {
    question_->frames = look(*py, mine);
    question_->state = Question::State::answered;
    return;
  }
  std::lock_guard lock(a.mutex);
  start_locked(a);
  a.queue.push_back(question_);
  a.questions.notify_one();
}

std::vector<Frame> Where::answer() {
  if (!question_) return {};
  auto q = std::move(question_);
  Asker& a = asker();
  std::unique_lock lock(a.mutex);
  a.answers.wait_for(lock, kPatience, [&] { return q->state == Question::State::answered; });
  if (q->state == Question::State::answered) return std::move(q->frames);
  q->state = Question::State::withdrawn;
  return {};
}

Where::~Where() {
  if (question_) {
    std::lock_guard lock(asker().mutex);
    question_->state = Question::State::withdrawn;
  }
}

Place place(uint32_t number) {
  std::lock_guard lock(places().mutex);
  return number && number <= places().all.size() ? places().all[number - 1] : Place{"?", "?", 0};
}

void abandon_in_child() { asker().gone = true; }

}  // namespace djinn::python
