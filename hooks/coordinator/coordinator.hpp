// libdjinn_coordinator.so: operators by name on a server, from any program; no preload, no CUDA, no libtorch here. What a call gives stays on the
// server under a handle until somebody asks for the numbers, so that a chain of operators sends each input once and brings one result back.
//
//   djinn::Coordinator coordinator;
//   auto y = coordinator.call("aten::matmul", {a, b}, "localhost:5556");           // a, b: djinn::HostTensor
//   auto z = coordinator.call("aten::relu", {y[0]}, "localhost:5556");
//   std::vector<std::byte> numbers = z[0].tensor().fetch();
//
// Thread-safe. Every wait has an end. Errors are the exceptions below, which name operator, target and reason. The same for C:
// semantic/abi/coordinator.h.
#pragma once
#include <chrono>
#include <complex>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#define DJINN_COORDINATOR_API __attribute__((visibility("default")))

namespace djinn {

// c10::ScalarType's numbers, which are stable.
enum class DType : uint8_t {
  uint8 = 0,
  int8 = 1,
  int16 = 2,
  int32 = 3,
  int64 = 4,
  float16 = 5,
  float32 = 6,
  float64 = 7,
  complex32 = 8,
  complex64 = 9,
  complex128 = 10,
  boolean = 11,
  bfloat16 = 15,
  float8_e5m2 = 23,
  float8_e4m3fn = 24,
  float8_e5m2fnuz = 25,
  float8_e4m3fnuz = 26,
  uint16 = 27,
  uint32 = 28,
  uint64 = 29,
};
// Bytes of one element; 0 for a number that is no DType.
DJINN_COORDINATOR_API size_t item_bytes(DType t);

// The caller's memory, read while the call runs. Strides are in elements, of any sign; none at all means contiguous.
struct HostTensor {
  const void* data = nullptr;
  DType dtype = DType::float32;
  std::vector<int64_t> sizes, strides = {};
};

namespace coordinator {
struct Remote;
class Pool;
}  // namespace coordinator

// A tensor on a server. Copies share it; with the last one its memory there is given back: that destructor posts a few words to the server, and may
// wait for it (as long as call_patience) while so much is under way that the window is full, or while another thread asks for more memory.
class DJINN_COORDINATOR_API RemoteTensor {
 public:
  explicit RemoteTensor(std::shared_ptr<coordinator::Remote> r) : remote_(std::move(r)) {}
  const std::vector<int64_t>& sizes() const;
  DType dtype() const;
  bool conjugate() const, negative() const;  // the numbers that fetch() gives are to be conjugated, negated
  uint64_t elements() const;
  const std::string& target() const;
  // Counts the operators that may have written to it: who keeps a copy of the numbers compares.
  uint64_t version() const;
  // One round trip. The numbers in row-major order; elements() × item_bytes(dtype()) of them.
  void fetch(void* to) const;
  std::vector<std::byte> fetch() const;
  const std::shared_ptr<coordinator::Remote>& remote() const { return remote_; }

 private:
  std::shared_ptr<coordinator::Remote> remote_;
};

// The device argument of an operator; a server has one, which is also its CPU.
struct Device {};

template <class T>
concept WholeNumber = std::integral<T> && !std::same_as<T, bool>;

struct Value;
using Values = std::vector<Value>;
using Keywords = std::vector<std::pair<std::string, Value>>;
// An argument or a result. std::monostate is None; a dtype argument is its number; lists are of one kind.
struct Value : std::variant<std::monostate, bool, int64_t, double, std::complex<double>, std::string, Device, HostTensor, RemoteTensor, Values> {
  Value() = default;
  // Every whole number is an int64_t; an unsigned one would else become what it converts to without narrowing: std::complex<double>.
  template <WholeNumber T>
  Value(T n) : variant(whole(n)) {}
  template <class T>
  requires(!WholeNumber<std::remove_cvref_t<T>> && !std::derived_from<std::remove_cvref_t<T>, Value> && std::constructible_from<variant, T>)
      Value(T&& v)
      : variant(std::forward<T>(v)) {}
  const RemoteTensor& tensor() const { return std::get<RemoteTensor>(*this); }  // std::bad_variant_access: it is none

 private:
  template <class T>
  static int64_t whole(T n) {
    if (!std::in_range<int64_t>(n)) throw std::invalid_argument("a whole number that does not fit in 64 bits");
    return static_cast<int64_t>(n);
  }
};

// What went wrong: "aten::matmul at tcp://localhost:5556: mat1 and mat2 shapes cannot be multiplied (2x3 and 2x3)".
struct DJINN_COORDINATOR_API CoordinatorError : std::runtime_error {
  CoordinatorError(std::string o, std::string t, std::string r)
      : std::runtime_error((o.empty() ? "" : o + " at ") + t + ": " + r), op(std::move(o)), target(std::move(t)), reason(std::move(r)) {}
  std::string op, target, reason;
};
// The server refused the operator, or it threw. The session goes on.
struct DJINN_COORDINATOR_API OperationError : CoordinatorError {
  using CoordinatorError::CoordinatorError;
};
// No session could be opened, or it was lost while the call waited. The next call tries again.
struct DJINN_COORDINATOR_API UnreachableError : CoordinatorError {
  using CoordinatorError::CoordinatorError;
};
// A handle whose session is over, or that is another target's.
struct DJINN_COORDINATOR_API DeadHandleError : CoordinatorError {
  using CoordinatorError::CoordinatorError;
};

struct CoordinatorConfiguration {
  std::string node_id = "coordinator";              // what the server calls the session
  std::chrono::milliseconds open_patience{30000};   // a cold worker loads libtorch
  std::chrono::milliseconds call_patience{120000};  // for one answer; after it the session is given up
  std::chrono::milliseconds idle{60000};            // a session that holds nobody's handles ends when it is unused for so long
  uint64_t cached_input_bytes = 1ull << 30;         // inputs that a target keeps, because equal ones may come again; 0: none
  std::string link_library;                         // default: libdjinn_link.so beside this library
  std::string emulate;                              // DJINN_LINK's words; default: the real network
};

// Of one target, over all sessions with it.
struct CoordinatorStatistics {
  uint64_t sessions_opened = 0, operations = 0, round_trips = 0;
  uint64_t messages_sent = 0, bytes_sent = 0, messages_received = 0, bytes_received = 0;
  uint64_t inputs_sent = 0, input_bytes_sent = 0, inputs_reused = 0, results_fetched = 0, result_bytes_fetched = 0;
  bool connected = false;
};

class DJINN_COORDINATOR_API Coordinator {
 public:
  explicit Coordinator(CoordinatorConfiguration configuration = {});
  ~Coordinator();  // close()
  Coordinator(const Coordinator&) = delete;
  Coordinator& operator=(const Coordinator&) = delete;

  // Opens the session with a target if there is none; a call does that by itself. `target`: HOST:PORT (of the front door, 5556, or of the control
  // port), tcp://HOST:PORT or ipc://PATH.
  void connect(const std::string& target);
  // One round trip. The results are the schema's returns; an argument that was written in place comes back as the handle of what was written.
  Values call(const std::string& op, const Values& arguments, const std::string& target, const Keywords& keywords = {});
  CoordinatorStatistics statistics(const std::string& target) const;
  // Ends all sessions; their handles are dead, and further calls throw UnreachableError.
  void close();

 private:
  std::unique_ptr<coordinator::Pool> pool_;
};

}  // namespace djinn
