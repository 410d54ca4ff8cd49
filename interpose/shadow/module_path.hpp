// Which module of the program's model posts what: paths by number, which the framework's hook gives. The labels that a program gives are texts of the
// same kind.
#pragma once
#include <string>

#include "interpose/client.hpp"

namespace djinn {

// The same number for the same path; 0 when there are too many.
uint32_t module_number(const char* path);
// Empty: none. Valid as long as the process.
const char* module_path(uint32_t number);

}  // namespace djinn
