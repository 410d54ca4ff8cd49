// Which overload an op_call means: the schemas of its name are held against the values that were given, one after the other, and torch's own check
// has the last word. What Python's argument parser would convert is converted, but only when nothing fits as it is.
#pragma once
#include <string>
#include <vector>

#include "server/execute/cpu/aten/decode.hpp"

namespace djinn::aten {

struct Bound {
  Op* op = nullptr;             // null: nothing fits
  Stack arguments;              // in the schema's order, all of them
  std::vector<uint16_t> place;  // number of a given value → its argument
  std::string why;              // nothing fits: each overload's reason
};
Bound resolve(const std::vector<Op*>& overloads, const Given& given);

}  // namespace djinn::aten
