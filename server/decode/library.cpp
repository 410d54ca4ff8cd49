// Library calls (cuBLAS, cuBLASLt …): their decoders are generated from semantic/api.
#include "server/decode/decode.hpp"

namespace djinn::server::decode {

Function find_library_call(uint32_t) { return nullptr; }

}  // namespace djinn::server::decode
