// JSON of objects; what has fields is given by name, so that nothing depends on an order. Text may come from a client: what is not UTF-8 is replaced,
// or nobody could read the line.
#pragma once
#include <fmt/format.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace djinn::server {

// The text with a replacement character for each byte that belongs to no UTF-8 sequence.
std::string utf8(std::string_view text);

class Json {
 public:
  template <class T>
  Json& field(std::string_view name, const T& v) {
    text_ += fmt::format("{}\"{}\": {}", text_.empty() ? "" : ", ", name, value(v));
    return *this;
  }
  std::string object() const { return "{" + text_ + "}"; }

 private:
  static std::string value(uint64_t v) { return std::to_string(v); }
  static std::string value(const Json& v) { return v.object(); }
  static std::string value(const std::string& v) { return "\"" + escaped(v) + "\""; }
  template <class T>
  static std::string value(const std::vector<T>& list) {
    std::string out;
    for (const T& v : list) out += (out.empty() ? "" : ", ") + value(v);
    return "[" + out + "]";
  }
  static std::string escaped(std::string_view v);
  std::string text_;
};

}  // namespace djinn::server
