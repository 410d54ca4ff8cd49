// One op_call: its values as words, and the words of the answer as values. Mirror: server/execute/cpu/aten/decode (decode_call) and query (reply).
#pragma once
#include <functional>
#include <span>
#include <vector>

#include "hooks/coordinator/session.hpp"
#include "semantic/wire/codec.hpp"

namespace djinn::coordinator {

class Call {
 public:
  // Sends the inputs. Throws OperationError for what cannot travel, DeadHandleError for a handle that is no good here.
  Call(Session& session, const std::string& op, const Values& arguments, const Keywords& keywords);
  std::span<const std::byte> payload() const { return payload_; }
  // The op has been sent: handles that it may have written to have another version.
  void written() const;
  // Reads the answer; each tensor in it gets a place. `drop` ends the answer's stash, also when something in it cannot be understood.
  Values results(std::span<const std::byte> reply, const std::function<void(uint64_t stash)>& drop);

 private:
  RemotePointer put(const Value& v);
  RemotePointer put_tensor(RemotePointer r);
  void put_list(const Values& list);
  Value read(wire::Reader& in, uint64_t stash);
  Value read_tensor(wire::Reader& in, uint64_t w, uint64_t stash);
  Value read_list(wire::Reader& in, uint64_t w, uint64_t stash);

  Session& session_;
  const std::string& op_;
  bool writes_;  // the op may write to the value that is being put
  std::vector<std::byte> payload_;
  std::vector<RemotePointer> given_;  // by number of the value; null: no tensor
  std::vector<RemotePointer> used_;   // alive until the call is over
  std::vector<RemotePointer> written_;
};

}  // namespace djinn::coordinator
