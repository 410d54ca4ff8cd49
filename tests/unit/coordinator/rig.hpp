// A session of the coordinator with the fake link at its end.
#pragma once
#include <cstring>

#include "hooks/coordinator/session.hpp"
#include "tests/unit/catch.hpp"
#include "tests/unit/client/fake_link.hpp"

namespace djinn::test {

FakeLink& the_link();

struct Rig {
  FakeLink& link = the_link();
  std::shared_ptr<coordinator::Session> session;

  explicit Rig(CoordinatorConfiguration configuration = {}) {
    link.clear();
    session = std::make_shared<coordinator::Session>(FakeLink::api(), configuration, "fake://target");
    REQUIRE(session->open().empty());
  }
  ~Rig() {
    session->close("the test is over");
    CHECK(link.complaints().empty());
  }

  // The words of an answer: a stash, one float tensor of these sizes in it.
  static std::vector<std::byte> one_tensor(std::vector<int64_t> sizes, uint64_t stash = 5) {
    std::vector<std::byte> b;
    wire::Writer w(b);
    w.put(stash), w.put<uint64_t>(1);
    w.put(wire::op::word(wire::op::Tag::tensor, static_cast<uint8_t>(sizes.size()), static_cast<uint16_t>(DType::float32), 0));
    for (int64_t s : sizes) w.put(s);
    for (int64_t s : coordinator::contiguous_strides(sizes)) w.put(s);
    return b;
  }
  Values call(const std::string& op, const Values& arguments, std::vector<std::byte> answer, const Keywords& keywords = {}) {
    link.answer_next(wire::Opcode::op_call, std::move(answer));
    return session->call(op, arguments, keywords);
  }
  size_t sent(wire::Opcode opcode) {
    size_t n = 0;
    for (const Sent& s : link.sent()) n += s.opcode() == opcode;
    return n;
  }
};

}  // namespace djinn::test
