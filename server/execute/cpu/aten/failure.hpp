// What went wrong with one record, in the form that djinn_executor_result carries. Three kinds of trouble come here: malformed payloads (the
// decoder's sticky failure), memory that is not the session's, and exceptions of libtorch.
#pragma once
#include <exception>
#include <string>

#include "semantic/wire/command.hpp"

namespace djinn::aten {

// cudaError_t by number: this library links no CUDA and needs only these.
constexpr int kSuccess = 0;
constexpr int kInvalidValue = 1;
constexpr int kMemoryAllocation = 2;
constexpr int kIllegalAddress = 700;
constexpr int kAssert = 710;
constexpr int kNotSupported = 801;
constexpr int kUnknown = 999;

struct Failure {
  int code = kSuccess;
  wire::ErrorClass error_class = wire::ErrorClass::exception;
  std::string operation;  // "aten::embedding"
  std::string text;
};

// Thrown by our own code below libtorch frames (rewrites, placing) when the device cannot do something.
class Unsupported : public std::exception {
 public:
  explicit Unsupported(std::string text) : text_(std::move(text)) {}
  const char* what() const noexcept override { return text_.c_str(); }

 private:
  std::string text_;
};

// What a CUDA kernel would have asserted: an index, a label, a probability. The text names the condition.
class DeviceAssertion : public std::exception {
 public:
  explicit DeviceAssertion(std::string text) : text_(std::move(text)) {}
  const char* what() const noexcept override { return text_.c_str(); }

 private:
  std::string text_;
};

// Translates the exception in flight. Call inside a catch block.
Failure failure_in_flight();
// Does this error mean that the CPU has the op, but not for Half or BFloat16?
bool lacks_reduced_precision(const std::string& text);

}  // namespace djinn::aten
