// See resolve.hpp.
#include "server/execute/cpu/aten/resolve.hpp"

#include <ATen/ScalarOps.h>
#include <ATen/core/List.h>

namespace djinn::aten {

namespace {

// Overloads whose reasons an error tells; the others are counted.
constexpr size_t kReasonsMax = 4;

bool fit_scalar(Kind kind, bool convert, c10::IValue& v) {
  switch (kind) {
    case Kind::tensor:
      if (v.isTensor()) return true;
      if (!convert || !v.isScalar()) return false;
      v = c10::scalar_to_tensor(v.toScalar());
      v.toTensor().unsafeGetTensorImpl()->set_wrapped_number(true);
      return true;
    case Kind::integer:
      if (convert && v.isBool()) v = static_cast<int64_t>(v.toBool());
      return v.isInt();
    case Kind::real:
      if (convert && v.isInt()) v = static_cast<double>(v.toInt());
      return v.isDouble();
    case Kind::boolean: return v.isBool();
    case Kind::complex:
    case Kind::number: return v.isScalar();
    case Kind::string: return v.isString();
    case Kind::device: return v.isDevice();
    case Kind::generator:  // only None, which the caller has seen
    case Kind::tensors:
    case Kind::optional_tensors:
    case Kind::integers:
    case Kind::reals:
    case Kind::booleans:
    case Kind::numbers:
    case Kind::strings: return false;
  }
  return false;
}

template <class T>
bool fit_elements(Kind element, bool convert, c10::ArrayRef<c10::IValue> from, c10::IValue& v) {
  c10::List<T> list;
  list.reserve(from.size());
  for (c10::IValue e : from) {
    if (!fit_scalar(element, convert, e)) return false;
    list.push_back(e.to<T>());
  }
  v = std::move(list);
  return true;
}

bool fit_optional_tensors(c10::ArrayRef<c10::IValue> from, c10::IValue& v) {
  c10::List<std::optional<at::Tensor>> list;
  for (const c10::IValue& e : from) {
    bool nothing = e.isNone() || (e.isTensor() && !e.toTensor().defined());
    if (!nothing && !e.isTensor()) return false;
    list.push_back(nothing ? std::nullopt : std::optional(e.toTensor()));
  }
  v = std::move(list);
  return true;
}

bool fit_numbers(c10::ArrayRef<c10::IValue> from, c10::IValue& v) {
  c10::impl::GenericList list(c10::NumberType::get());
  for (const c10::IValue& e : from) {
    if (!e.isScalar()) return false;
    list.push_back(e);
  }
  v = std::move(list);
  return true;
}

// A list of the schema's kind. The elements are looked at, not the kind that the client gave: an empty list has none. `length`: a number alone stands
// for a list of so many (int[2] stride=1).
bool fit_list(Kind kind, std::optional<int32_t> length, bool convert, c10::IValue& v) {
  std::vector<c10::IValue> repeated;
  if (convert && length && v.isScalar()) repeated.assign(static_cast<size_t>(*length), v);
  else if (!v.isList()) return false;
  else repeated = v.toListRef().vec();
  c10::ArrayRef<c10::IValue> elements(repeated);
  switch (kind) {
    case Kind::tensors: return fit_elements<at::Tensor>(Kind::tensor, false, elements, v);
    case Kind::optional_tensors: return fit_optional_tensors(elements, v);
    case Kind::integers: return fit_elements<int64_t>(Kind::integer, convert, elements, v);
    case Kind::reals: return fit_elements<double>(Kind::real, convert, elements, v);
    case Kind::booleans: return fit_elements<bool>(Kind::boolean, convert, elements, v);
    case Kind::numbers: return fit_numbers(elements, v);
    case Kind::strings: return fit_elements<std::string>(Kind::string, convert, elements, v);
    case Kind::tensor:
    case Kind::integer:
    case Kind::real:
    case Kind::boolean:
    case Kind::complex:
    case Kind::number:
    case Kind::string:
    case Kind::device:
    case Kind::generator: break;
  }
  return false;
}

bool is_list(Kind kind) { return kind >= Kind::tensors; }

bool fit(const Argument& a, const c10::Argument& formal, bool convert, c10::IValue& v) {
  if (a.optional && v.isTensor() && !v.toTensor().defined()) v = c10::IValue();
  if (v.isNone()) return a.optional;
  return is_list(a.kind) ? fit_list(a.kind, formal.N(), convert, v) : fit_scalar(a.kind, convert, v);
}

std::string unfit(const c10::Argument& formal, const c10::IValue& v) {
  return "argument '" + formal.name() + "' is " + formal.type()->annotation_str() + ", not " + (v.isNone() ? "None" : v.type()->annotation_str());
}

// Empty when the values fit.
std::string try_overload(const Op& op, const Given& given, bool convert, Bound& out) {
  const auto& formals = op.handle.schema().arguments();
  out.arguments = given.positional;
  out.place.clear();
  if (given.positional.size() > formals.size())
    return "takes " + std::to_string(formals.size()) + " arguments, not " + std::to_string(given.positional.size());
  for (uint16_t i = 0; i < out.arguments.size(); i++) {
    if (formals[i].kwarg_only()) return "argument '" + formals[i].name() + "' is given by keyword only";
    if (!fit(op.arguments[i], formals[i], convert, out.arguments[i])) return unfit(formals[i], given.positional[i]);
    out.place.push_back(i);
  }
  std::unordered_map<std::string, c10::IValue> keywords;
  for (const auto& [name, value] : given.keywords) {
    auto i = op.handle.schema().argumentIndexWithName(name);
    if (!i) return "has no argument '" + name + "'";
    c10::IValue v = value;
    if (!fit(op.arguments[*i], formals[*i], convert, v)) return unfit(formals[*i], value);
    if (!keywords.emplace(name, std::move(v)).second || static_cast<size_t>(*i) < given.positional.size())
      return "argument '" + name + "' is given twice";
    out.place.push_back(static_cast<uint16_t>(*i));
  }
  for (size_t i = given.positional.size(); i < formals.size(); i++)
    if (!formals[i].default_value() && !keywords.count(formals[i].name())) return "argument '" + formals[i].name() + "' is missing";
  op.handle.schema().checkAndNormalizeInputs(out.arguments, keywords);
  return {};
}

std::string first_line(const char* text) {
  std::string s = text;
  return s.substr(0, s.find('\n'));
}

}  // namespace

Bound resolve(const std::vector<Op*>& overloads, const Given& given) {
  Bound b;
  std::vector<std::string> reasons;
  for (bool convert : {false, true}) {
    reasons.clear();
    for (Op* op : overloads) {
      std::string why;
      try {
        why = try_overload(*op, given, convert, b);
      } catch (const c10::Error& e) {
        why = first_line(e.what_without_backtrace());
      }
      if (why.empty()) return b.op = op, b;
      reasons.push_back(op->name + ": " + why);
    }
  }
  for (size_t i = 0; i < reasons.size() && i < kReasonsMax; i++) b.why += (i ? "; " : "") + reasons[i];
  if (reasons.size() > kReasonsMax) b.why += "; and " + std::to_string(reasons.size() - kReasonsMax) + " more overloads";
  return b;
}

}  // namespace djinn::aten
