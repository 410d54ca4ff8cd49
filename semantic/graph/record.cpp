// See record.hpp.
#include "semantic/graph/record.hpp"

#include "semantic/graph/tensors.hpp"
#include "semantic/wire/codec.hpp"
#include "semantic/wire/limits.hpp"

namespace djinn::graph {

using namespace wire::op;

namespace {

// Lists nest (kNestingMax), and a composite tensor inside of one has members.
constexpr unsigned kDepthMax = wire::kNestingMax + 1;

class Walk {
 public:
  Walk(OpRecord& out, std::span<const std::byte> words) : out_(out), in_(words) {}
  bool finished() const { return in_.finished(); }
  void skip(uint64_t words) { words > in_.left() / 8 ? in_.fail() : void(in_.take(words * 8)); }
  uint64_t word() { return in_.get<uint64_t>(); }
  bool ok() const { return in_.ok(); }
  template <class Fixed>
  Fixed fixed() {
    return in_.get<Fixed>();
  }
  std::string_view string() { return in_.get_string(wire::kNameBytesMax); }

  void value(uint32_t argument, unsigned depth = 0) {
    uint64_t w = word();
    switch (tag_of(w)) {
      case Tag::none:
      case Tag::undefined:
      case Tag::device:
      case Tag::generator: return;
      case Tag::tensor: return out_.arguments.push_back({argument, id_of(w)});
      case Tag::boolean:
        if (!depth && argument < 64) out_.true_arguments |= uint64_t{a_of(w) != 0} << argument;
        return;
      case Tag::integer:
      case Tag::real: return skip(1);
      case Tag::complex: return skip(2);
      case Tag::string: return skip((uint64_t{id_of(w)} + 7) / 8);
      case Tag::host_tensor: return host_tensor(a_of(w));
      case Tag::list: return list(w, argument, depth);
      case Tag::nested_tensor: return members(4, argument, depth);
      case Tag::sparse_tensor: return skip(id_of(w)), members(2, argument, depth);
      case Tag::compressed_tensor: return skip(id_of(w)), members(3, argument, depth);
      case Tag::quantized_tensor: return members(a_of(w) ? 4 : 3, argument, depth);
      case Tag::alias:
      case Tag::symbol: break;
    }
    in_.fail();
  }

  void output(uint32_t index) {
    uint64_t w = word();
    if (tag_of(w) != Tag::list) return one_output(w, index);
    uint64_t n = id_of(w);
    if (n > in_.left() / 8) return in_.fail();
    for (; n && in_.ok(); n--) one_output(word(), index);
  }

  void result(uint32_t index, bool in_list = false) {
    uint64_t w = word();
    switch (tag_of(w)) {
      case Tag::none:
      case Tag::undefined:
      case Tag::boolean: return;
      case Tag::integer:
      case Tag::real: return skip(1);
      case Tag::complex: return skip(2);
      case Tag::alias: return out_.outputs.push_back({index, id_of(w), true});
      case Tag::tensor: return result_tensor(a_of(w), index);
      case Tag::list:
        if (in_list || static_cast<ListKind>(a_of(w)) != ListKind::tensors || id_of(w) > in_.left() / 8) break;
        for (uint32_t n = id_of(w); n && in_.ok(); n--) result(index, true);
        return;
      case Tag::host_tensor:
      case Tag::string:
      case Tag::device:
      case Tag::generator:
      case Tag::nested_tensor:
      case Tag::sparse_tensor:
      case Tag::compressed_tensor:
      case Tag::quantized_tensor:
      case Tag::symbol: break;
    }
    in_.fail();
  }

 private:
  void host_tensor(uint32_t rank) {
    uint64_t bytes = word();
    skip(rank);
    skip(bytes / 8 + (bytes % 8 != 0));
  }
  void result_tensor(uint32_t rank, uint32_t index) {
    Shape shape;
    bool fits = read_shape(in_, rank, shape);
    skip(rank);  // strides
    if (!fits) return in_.fail();
    if (in_.ok()) out_.results.push_back({index, shape});
  }
  void members(unsigned n, uint32_t argument, unsigned depth) {
    if (depth >= kDepthMax) return in_.fail();
    for (; n && in_.ok(); n--) value(argument, depth + 1);
  }
  void list(uint64_t w, uint32_t argument, unsigned depth) {
    uint64_t n = id_of(w);
    if (n > in_.left() / 8) return in_.fail();  // an element takes a word at least
    switch (static_cast<ListKind>(a_of(w))) {
      case ListKind::integers:
      case ListKind::reals:
      case ListKind::booleans: return skip(n);
      case ListKind::tensors:
      case ListKind::optional_tensors:
      case ListKind::numbers:
      case ListKind::strings:
        if (depth >= kDepthMax) return in_.fail();
        for (; n && in_.ok(); n--) value(argument, depth + 1);
        return;
    }
    in_.fail();
  }
  void one_output(uint64_t w, uint32_t index) {
    switch (tag_of(w)) {
      case Tag::none:
      case Tag::undefined: return;
      case Tag::tensor: return out_.outputs.push_back({index, id_of(w)});
      case Tag::alias: return out_.outputs.push_back({index, id_of(w), true});
      case Tag::host_tensor:
      case Tag::integer:
      case Tag::real:
      case Tag::boolean:
      case Tag::complex:
      case Tag::string:
      case Tag::device:
      case Tag::list:
      case Tag::generator:
      case Tag::nested_tensor:
      case Tag::sparse_tensor:
      case Tag::compressed_tensor:
      case Tag::quantized_tensor:
      case Tag::symbol: break;
    }
    in_.fail();
  }

  OpRecord& out_;
  wire::Reader in_;
};

}  // namespace

void OpRecord::clear() {
  arguments.clear();
  outputs.clear();
  results.clear();
  true_arguments = 0;
  out_given = false;
  head = {};
  context = {};
}

bool OpRecord::read(std::span<const std::byte> payload) {
  clear();
  if (payload.size() < sizeof head || payload.size() % 8) return false;
  std::memcpy(&head, payload.data(), sizeof head);
  Walk walk(*this, payload.subspan(sizeof head));
  for (uint32_t i = 0; i < head.arguments; i++) walk.value(i);
  for (uint32_t i = 0; i < head.outputs; i++) walk.output(i);
  if (head.flags & kHasGenerator) walk.skip((head.flags & kGeneratorInMemory ? sizeof(GeneratorInMemory) : sizeof(Generator)) / 8);
  if (head.flags & kContextGiven) {
    uint64_t w = walk.word();
    std::memcpy(&context, &w, sizeof context);
  }
  return walk.finished();
}

bool OpRecord::read_call(std::span<const std::byte> payload, std::string_view& name) {
  clear();
  Walk walk(*this, payload);
  auto call = walk.fixed<OpCall>();
  name = walk.string();
  if (!walk.ok() || uint64_t{call.arguments} + call.keywords > wire::kCallValuesMax) return false;
  for (uint32_t i = 0; i < call.arguments; i++) walk.value(i);
  for (uint32_t i = 0; i < call.keywords; i++) {
    out_given |= walk.string() == "out";
    walk.value(call.arguments + i);
  }
  return walk.finished();
}

uint64_t OpRecord::read_answer(std::span<const std::byte> reply) {
  Walk walk(*this, reply);
  uint64_t stash = walk.word(), returns = walk.word();
  for (uint32_t i = 0; i < returns && walk.ok(); i++) walk.result(i);
  return stash;
}

}  // namespace djinn::graph
