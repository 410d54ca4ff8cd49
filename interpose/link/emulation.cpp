// See emulation.hpp.
#include "interpose/link/emulation.hpp"

#include <charconv>

namespace djinn::link {

// "1.5ms" → {1.5, "ms"}
static bool number(std::string_view text, double& value, std::string_view& unit) {
  auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (failed != std::errc() || value < 0) return false;
  unit = text.substr(static_cast<size_t>(end - text.data()));
  return true;
}

static bool set(Emulation& e, std::string_view key, double v, std::string_view unit) {
  auto probability = [&](double& p) { return unit.empty() && v <= 1 ? (p = v, true) : false; };
  if (key == "rtt") {
    double scale = unit == "us" ? 1e3 : unit == "ms" ? 1e6 : unit == "s" ? 1e9 : 0;
    e.rtt = std::chrono::nanoseconds(static_cast<int64_t>(v * scale));
    return scale > 0 && v * scale <= 60e9;
  }
  if (key == "bandwidth") {
    double scale = unit == "Kbit" ? 1e3 : unit == "Mbit" ? 1e6 : unit == "Gbit" ? 1e9 : 0;
    e.bits_per_second = v * scale;
    return e.bits_per_second > 0;
  }
  if (key == "seed") return e.seed = static_cast<uint64_t>(v), unit.empty();
  if (key == "cut") return probability(e.cut);
  if (key == "slow") return probability(e.slow);
  if (key == "duplicate") return probability(e.duplicate);
  if (key == "garbage") return probability(e.garbage);
  return false;
}

std::optional<Emulation> parse_emulation(std::string_view text, std::string& error) {
  Emulation e;
  while (!text.empty()) {
    size_t comma = text.find(',');
    std::string_view part = text.substr(0, comma);
    text = comma == std::string_view::npos ? std::string_view{} : text.substr(comma + 1);
    size_t equals = part.find('=');
    double v = 0;
    std::string_view unit;
    if (equals == std::string_view::npos || !number(part.substr(equals + 1), v, unit) || !set(e, part.substr(0, equals), v, unit)) {
      error = "DJINN_LINK: '" + std::string(part) + "' is none of rtt=1ms, bandwidth=1Gbit, seed=N, cut=P, slow=P, duplicate=P, garbage=P";
      return std::nullopt;
    }
  }
  return e;
}

}  // namespace djinn::link
