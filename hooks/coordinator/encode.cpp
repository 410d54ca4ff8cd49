// See encode.hpp.
#include "hooks/coordinator/encode.hpp"

#include <algorithm>

#include "semantic/wire/limits.hpp"

namespace djinn::coordinator {

using wire::op::ListKind;
using wire::op::Tag;
using wire::op::word;

namespace {

// What an op may write to gets memory of its own, so that what others share stays what it is. There is no schema here, so names decide, and rather
// too much than too little: in place ends in an underscore, results that the caller gives are an "out" overload or keywords of many names (out,
// values, indices, grad_input …). What is left are the bases below, which write to arguments by position; batch norm does not even say so in its
// schema.
constexpr std::string_view kWriters[] = {"batch_norm",     "instance_norm",  "fused_moving_avg_obs", "rrelu_with_noise",
                                         "_cummax_helper", "_cummin_helper", "_no_dropout_inplace"};
// The commonest keywords that no schema of PyTorch 2.14 writes to, so that a weight by keyword travels once, too.
constexpr std::string_view kOnlyRead[] = {"weight", "bias", "other", "target", "mask"};

bool writes_by_position(const std::string& op) {
  std::string base = op.substr(0, op.find('.')), overload = op.substr(base.size());
  if (base.ends_with('_') || overload.find("out") != std::string::npos) return true;
  return std::any_of(std::begin(kWriters), std::end(kWriters), [&](auto name) { return base.find(name) != std::string::npos; });
}

bool writes_by_keyword(const std::string& name) { return std::find(std::begin(kOnlyRead), std::end(kOnlyRead), name) == std::end(kOnlyRead); }

template <class T>
bool all_of(const Values& list) {
  return std::all_of(list.begin(), list.end(), [](const Value& v) { return std::holds_alternative<T>(v); });
}
bool is_tensor(const Value& v) { return std::holds_alternative<HostTensor>(v) || std::holds_alternative<RemoteTensor>(v); }
bool is_number(const Value& v) {
  return std::holds_alternative<bool>(v) || std::holds_alternative<int64_t>(v) || std::holds_alternative<double>(v) ||
         std::holds_alternative<std::complex<double>>(v);
}

bool kind_of(const Values& list, ListKind& kind) {
  auto all = [&](auto is) { return std::all_of(list.begin(), list.end(), is); };
  if (all_of<int64_t>(list)) kind = ListKind::integers;  // an empty one, too
  else if (all_of<double>(list)) kind = ListKind::reals;
  else if (all_of<bool>(list)) kind = ListKind::booleans;
  else if (all_of<std::string>(list)) kind = ListKind::strings;
  else if (all(is_number)) kind = ListKind::numbers;
  else if (all(is_tensor)) kind = ListKind::tensors;
  else if (all([](const Value& v) { return is_tensor(v) || std::holds_alternative<std::monostate>(v); })) kind = ListKind::optional_tensors;
  else return false;
  return true;
}

void put_text(wire::Writer& w, const std::string& s) {
  w.put(word(Tag::string, 0, 0, static_cast<uint32_t>(s.size())));
  if (!s.empty()) std::memcpy(w.grow(wire::align8(s.size())), s.data(), s.size());
}

}  // namespace

Call::Call(Session& session, const std::string& op, const Values& arguments, const Keywords& keywords)
    : session_(session), op_(op), writes_(writes_by_position(op)) {
  if (arguments.size() + keywords.size() > wire::kCallValuesMax) session.fail(op, "more than " + std::to_string(wire::kCallValuesMax) + " arguments");
  if (op.size() > wire::kNameBytesMax) session.fail(op.substr(0, 64), "a name this long is no operator's");
  wire::Writer w(payload_);
  w.put(wire::op::OpCall{static_cast<uint32_t>(arguments.size()), static_cast<uint32_t>(keywords.size())});
  w.put_string(op);
  try {
    for (const Value& v : arguments) given_.push_back(put(v));
    for (const auto& [name, v] : keywords) {
      if (name.size() > wire::kNameBytesMax) throw std::invalid_argument("a keyword that is too long");
      w.put_string(name);
      writes_ = writes_by_position(op) || writes_by_keyword(name);
      given_.push_back(put(v));
    }
  } catch (const DeadHandleError& e) {
    throw DeadHandleError(op, e.target, e.reason);
  } catch (const CoordinatorError&) {
    throw;
  } catch (const std::exception& e) {  // invalid_argument, length_error, bad_alloc
    if (session.lost()) throw UnreachableError(op, session.target(), session.reason());
    session.fail(op, e.what());
  }
}

RemotePointer Call::put_tensor(RemotePointer r) {
  wire::Writer(payload_).put(word(Tag::tensor, 0, 0, r->id));
  used_.push_back(r);
  if (writes_) written_.push_back(r);
  return r;
}

// The tensor, if it is one.
RemotePointer Call::put(const Value& v) {
  wire::Writer w(payload_);
  if (auto* host = std::get_if<HostTensor>(&v)) return put_tensor(session_.input(*host, !writes_));
  if (auto* remote = std::get_if<RemoteTensor>(&v)) return put_tensor(session_.own(*remote));
  if (std::holds_alternative<std::monostate>(v)) w.put(word(Tag::none));
  if (auto* b = std::get_if<bool>(&v)) w.put(word(Tag::boolean, *b));
  if (auto* i = std::get_if<int64_t>(&v)) w.put(word(Tag::integer)), w.put(*i);
  if (auto* d = std::get_if<double>(&v)) w.put(word(Tag::real)), w.put(*d);
  if (auto* z = std::get_if<std::complex<double>>(&v)) w.put(word(Tag::complex)), w.put(z->real()), w.put(z->imag());
  if (std::holds_alternative<Device>(v)) w.put(word(Tag::device, 1));
  if (auto* s = std::get_if<std::string>(&v)) {
    if (s->size() > wire::kNameBytesMax) throw std::invalid_argument("a string of " + std::to_string(s->size()) + " characters");
    put_text(w, *s);
  }
  if (auto* list = std::get_if<Values>(&v)) put_list(*list);
  return nullptr;
}

// No list holds lists: kind_of() has none for them.
void Call::put_list(const Values& list) {
  ListKind kind;
  if (!kind_of(list, kind)) throw std::invalid_argument("a list whose elements are not all tensors, numbers or strings");
  if (list.size() > wire::kListMax) throw std::invalid_argument("a list of " + std::to_string(list.size()) + " elements");
  wire::Writer w(payload_);
  w.put(word(Tag::list, static_cast<uint8_t>(kind), 0, static_cast<uint32_t>(list.size())));
  for (const Value& v : list) {
    switch (kind) {
      case ListKind::integers: w.put(std::get<int64_t>(v)); break;
      case ListKind::reals: w.put(std::get<double>(v)); break;
      case ListKind::booleans: w.put<uint64_t>(std::get<bool>(v)); break;
      case ListKind::tensors:
      case ListKind::optional_tensors:
      case ListKind::numbers:
      case ListKind::strings: put(v); break;
    }
  }
}

void Call::written() const {
  for (const RemotePointer& r : written_) ++r->version;
}

// ---- the answer ----

namespace {

[[noreturn]] void malformed() { throw std::runtime_error("the server's answer is malformed"); }

std::vector<int64_t> numbers(wire::Reader& in, uint32_t n) {
  if (n > in.left() / 8) malformed();
  std::vector<int64_t> v(n);
  for (int64_t& x : v) x = in.get<int64_t>();
  return v;
}

}  // namespace

Value Call::read_tensor(wire::Reader& in, uint64_t w, uint64_t stash) {
  auto dtype = static_cast<DType>(wire::op::b_of(w) & 0xff);
  if (!item_bytes(dtype)) throw std::runtime_error("a result of a dtype that cannot travel");
  if (wire::op::a_of(w) > wire::kRankMax) malformed();
  auto sizes = numbers(in, wire::op::a_of(w)), strides = numbers(in, wire::op::a_of(w));
  return session_.handle(session_.result(stash, wire::op::id_of(w), dtype, wire::op::b_of(w) >> 8, std::move(sizes), std::move(strides)));
}

Value Call::read_list(wire::Reader& in, uint64_t w, uint64_t stash) {
  uint32_t n = wire::op::id_of(w);
  if (n > wire::kListMax || n > in.left() / 8) malformed();
  Values list;
  auto kind = static_cast<ListKind>(wire::op::a_of(w));
  for (uint32_t i = 0; i < n; i++) {
    switch (kind) {
      case ListKind::integers: list.emplace_back(in.get<int64_t>()); break;
      case ListKind::reals: list.emplace_back(in.get<double>()); break;
      case ListKind::booleans: list.emplace_back(in.get<uint64_t>() != 0); break;
      case ListKind::tensors: list.push_back(read(in, stash)); break;
      case ListKind::optional_tensors:
      case ListKind::numbers:
      case ListKind::strings: malformed();
    }
  }
  return list;
}

Value Call::read(wire::Reader& in, uint64_t stash) {
  uint64_t w = in.get<uint64_t>();
  if (!in.ok()) malformed();
  switch (wire::op::tag_of(w)) {
    case Tag::none:
    case Tag::undefined: return {};
    case Tag::tensor: return read_tensor(in, w, stash);
    case Tag::integer: return in.get<int64_t>();
    case Tag::real: return in.get<double>();
    case Tag::boolean: return wire::op::a_of(w) != 0;
    case Tag::complex: {
      double re = in.get<double>(), im = in.get<double>();
      return std::complex<double>(re, im);
    }
    case Tag::list: return read_list(in, w, stash);
    case Tag::alias: {
      uint32_t i = wire::op::id_of(w);
      if (i >= given_.size() || !given_[i]) malformed();
      return session_.handle(given_[i]);
    }
    case Tag::nested_tensor:
    case Tag::sparse_tensor:
    case Tag::compressed_tensor:
    case Tag::quantized_tensor: throw std::runtime_error("a result that is sparse, nested or quantized cannot be held here");
    case Tag::host_tensor:
    case Tag::string:
    case Tag::device:
    case Tag::generator:
    case Tag::symbol: break;
  }
  malformed();
}

Values Call::results(std::span<const std::byte> reply, const std::function<void(uint64_t)>& drop) {
  wire::Reader in(reply);
  uint64_t stash = in.get<uint64_t>(), count = in.get<uint64_t>();
  Values values;
  std::string why;
  try {
    if (!in.ok() || count > in.left() / 8) malformed();
    while (count--) values.push_back(read(in, stash));
    if (!in.finished()) malformed();
  } catch (const std::exception& e) {
    why = e.what();
  }
  if (stash) drop(stash);
  if (!why.empty() && session_.lost()) throw UnreachableError(op_, session_.target(), session_.reason());
  if (!why.empty()) session_.fail(op_, why);
  return values;
}

}  // namespace djinn::coordinator
