// Exceptions of libtorch → code, class, one line of text. The text opens with the Python class name where that is not RuntimeError, so that the
// client can raise the same class (torch.linalg.LinAlgError for one).
#include "server/execute/cpu/aten/failure.hpp"

#include <c10/util/Exception.h>

#include <new>

#include "semantic/wire/limits.hpp"

namespace djinn::aten {

namespace {

std::string first_line(std::string text) {
  if (size_t end = text.find('\n'); end != std::string::npos) text.resize(end);
  if (text.size() > wire::kErrorTextMax / 2) text.resize(wire::kErrorTextMax / 2);
  return text;
}

Failure failure(int code, wire::ErrorClass error_class, const char* python_class, const std::string& text) {
  return {code, error_class, {}, first_line(python_class + text)};
}

// Out of memory in the default allocator is a plain c10::Error; only its text tells.
bool is_out_of_memory(const std::string& text) {
  return text.find("not enough memory") != std::string::npos || text.find("can't allocate memory") != std::string::npos;
}

// The dispatcher's way of saying that no kernel is there, or an AT_DISPATCH that lacks the dtype.
bool is_missing_kernel(const std::string& text) {
  return text.find(" not implemented for '") != std::string::npos || text.find("Could not run '") != std::string::npos ||
         text.find("There were no tensor arguments to this function") != std::string::npos;
}

// The client's own kernel has accepted shapes, types and dimensions before an op comes here, so what remains is a value that only the kernel sees:
// where the CPU throws, a CUDA kernel asserts. These are the words of ATen's CPU kernels about an index, a label, an offset or a rate; those about a
// dimension are an argument check that the Meta path left to us.
bool is_device_assertion(const std::string& text) {
  if (text.rfind("Dimension ", 0) == 0) return false;
  for (const char* sign : {"out of range", "out of bounds", "out of DATA bounds", "invalid Poisson rate"})
    if (text.find(sign) != std::string::npos) return true;
  return false;
}

}  // namespace

Failure failure_in_flight() {
  using wire::ErrorClass;
  try {
    throw;
  } catch (const Unsupported& e) {
    return failure(kNotSupported, ErrorClass::refused, "", e.what());
  } catch (const DeviceAssertion& e) {
    return failure(kAssert, ErrorClass::sticky, "", e.what());
  } catch (const c10::IndexError& e) {
    std::string text = e.what_without_backtrace();
    if (is_device_assertion(text)) return failure(kAssert, ErrorClass::sticky, "", text);
    return failure(kUnknown, ErrorClass::exception, "IndexError: ", text);
  } catch (const c10::NotImplementedError& e) {
    return failure(kNotSupported, ErrorClass::refused, "NotImplementedError: ", e.what_without_backtrace());
  } catch (const c10::LinAlgError& e) {
    return failure(kUnknown, ErrorClass::exception, "LinAlgError: ", e.what_without_backtrace());
  } catch (const c10::OutOfMemoryError& e) {
    return failure(kMemoryAllocation, ErrorClass::exception, "OutOfMemoryError: ", e.what_without_backtrace());
  } catch (const c10::ValueError& e) {
    return failure(kUnknown, ErrorClass::exception, "ValueError: ", e.what_without_backtrace());
  } catch (const c10::TypeError& e) {
    return failure(kUnknown, ErrorClass::exception, "TypeError: ", e.what_without_backtrace());
  } catch (const c10::Error& e) {
    std::string text = e.what_without_backtrace();
    if (is_out_of_memory(text)) return failure(kMemoryAllocation, ErrorClass::exception, "OutOfMemoryError: ", text);
    if (is_device_assertion(text)) return failure(kAssert, ErrorClass::sticky, "", text);
    if (is_missing_kernel(text)) return failure(kNotSupported, ErrorClass::refused, "NotImplementedError: ", text);
    return failure(kUnknown, ErrorClass::exception, "", text);
  } catch (const std::bad_alloc&) {
    return failure(kMemoryAllocation, ErrorClass::exception, "OutOfMemoryError: ", "the server has no memory for a temporary of this op");
  } catch (const std::exception& e) {
    return failure(kUnknown, ErrorClass::exception, "", e.what());
  } catch (...) {
    return failure(kUnknown, ErrorClass::exception, "", "an exception of unknown type");
  }
}

bool lacks_reduced_precision(const std::string& text) {
  for (const char* sign : {"not implemented for 'Half'", "not implemented for 'BFloat16'", "expected scalar type", "must have the same dtype",
                           "to have the same dtype", "Low precision dtypes not supported", "Unsupported dtype"})
    if (text.find(sign) != std::string::npos) return true;
  return false;
}

}  // namespace djinn::aten
