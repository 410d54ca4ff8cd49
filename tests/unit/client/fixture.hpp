// What the client's tests share. The first CUDA call of the process opens a session on the fake link; cases that need an environment of their own, or
// that end the session, are hidden cases which run_case() starts in a process of their own.
#pragma once
#include <string>
#include <vector>

#include "tests/unit/catch.hpp"
#include "tests/unit/client/fake_link.hpp"

namespace djinn::test {

// The session on the fake link is open, automatic, idle and its history forgotten; at its end the client has kept the protocol.
struct OpenSession {
  OpenSession();
  ~OpenSession();
  FakeLink& link = fake();
  std::vector<Sent> sent(wire::Opcode opcode);  // flushes
};

struct Finished {
  int status = -1;  // exit status, or 128 + signal
  std::string output;
};
// Runs a hidden case of this program, by its tag, with these variables ("NAME=value") added to the environment.
Finished run_case(const std::string& tag, const std::vector<std::string>& environment = {});

std::vector<std::byte> pattern(size_t n, unsigned seed);

}  // namespace djinn::test
