// See json.hpp.
#include "server/control/json.hpp"

namespace djinn::server {

// Bytes of the UTF-8 sequence that the text begins with; 0: it begins with none.
static size_t utf8_length(std::string_view text) {
  auto at = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  size_t n = at(0) < 0x80 ? 1 : at(0) >= 0xc2 && at(0) < 0xe0 ? 2 : at(0) >= 0xe0 && at(0) < 0xf0 ? 3 : at(0) >= 0xf0 && at(0) < 0xf5 ? 4 : 0;
  if (n > text.size()) return 0;
  for (size_t i = 1; i < n; i++)
    if ((at(i) & 0xc0) != 0x80) return 0;
  // overlong forms, surrogates, and what is beyond Unicode
  if ((at(0) == 0xe0 && at(1) < 0xa0) || (at(0) == 0xed && at(1) > 0x9f) || (at(0) == 0xf0 && at(1) < 0x90) || (at(0) == 0xf4 && at(1) > 0x8f))
    return 0;
  return n;
}

std::string utf8(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    size_t n = utf8_length(text);
    out += n ? text.substr(0, n) : "\xef\xbf\xbd";
    text.remove_prefix(n ? n : 1);
  }
  return out;
}

std::string Json::escaped(std::string_view v) {
  std::string out;
  for (char c : utf8(v)) {
    auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') out += '\\', out += c;
    else if (byte < 0x20 || byte == 0x7f) out += fmt::format("\\u{:04x}", static_cast<unsigned>(byte));
    else out += c;
  }
  return out;
}

}  // namespace djinn::server
