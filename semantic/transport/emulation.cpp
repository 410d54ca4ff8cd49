// See emulation.hpp.
#include "semantic/transport/emulation.hpp"

#include <charconv>
#include <cmath>

namespace djinn::transport {

namespace {

// Longer than any test wants to wait; a typo ("rtt=100s") is refused instead of looking like a hang.
constexpr double kRttNanosecondsMax = 60e9;
// Slower than a telegraph is a typo too, and would overflow the arithmetic.
constexpr double kBitsPerSecondMin = 1000;

// "1.5ms" → {1.5, "ms"}
bool number(std::string_view text, double& value, std::string_view& unit) {
  auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (failed != std::errc() || !std::isfinite(value) || value < 0) return false;
  unit = text.substr(static_cast<size_t>(end - text.data()));
  return true;
}

bool set_rtt(Emulation& e, double v, std::string_view unit) {
  double scale = unit == "us" ? 1e3 : unit == "ms" ? 1e6 : unit == "s" ? 1e9 : 0;
  if (scale == 0 || v * scale > kRttNanosecondsMax) return false;
  e.rtt = std::chrono::nanoseconds(static_cast<int64_t>(v * scale));
  return true;
}

bool set_bandwidth(Emulation& e, double v, std::string_view unit) {
  double scale = unit == "Kbit" ? 1e3 : unit == "Mbit" ? 1e6 : unit == "Gbit" ? 1e9 : 0;
  e.bits_per_second = v * scale;
  return e.bits_per_second >= kBitsPerSecondMin && std::isfinite(e.bits_per_second);
}

bool set_seed(Emulation& e, std::string_view text) {
  auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), e.seed);
  return failed == std::errc() && end == text.data() + text.size();
}

bool set(Emulation& e, std::string_view key, std::string_view text) {
  if (key == "seed") return set_seed(e, text);
  double v = 0;
  std::string_view unit;
  if (!number(text, v, unit)) return false;
  if (key == "rtt") return set_rtt(e, v, unit);
  if (key == "bandwidth") return set_bandwidth(e, v, unit);
  double* probability = key == "cut" ? &e.cut : key == "slow" ? &e.slow : key == "duplicate" ? &e.duplicate : key == "garbage" ? &e.garbage : nullptr;
  if (!probability || !unit.empty() || v > 1) return false;
  *probability = v;
  return true;
}

}  // namespace

std::optional<Emulation> parse_emulation(std::string_view text, std::string& error) {
  Emulation e;
  for (bool more = !text.empty(); more;) {
    size_t comma = text.find(',');
    std::string_view part = text.substr(0, comma);
    more = comma != std::string_view::npos;
    text = more ? text.substr(comma + 1) : std::string_view{};
    size_t equals = part.find('=');
    if (equals == std::string_view::npos || !set(e, part.substr(0, equals), part.substr(equals + 1))) {
      error =
          "DJINN_LINK: '" + std::string(part.substr(0, 100)) + "' is none of rtt=1ms, bandwidth=1Gbit, seed=N, cut=P, slow=P, duplicate=P, garbage=P";
      return std::nullopt;
    }
  }
  return e;
}

Fault Dice::roll() {
  auto hit = [&](double p) { return static_cast<double>(random_() >> 11) * 0x1p-53 < p; };
  Fault f;
  f.cut = hit(emulation_.cut);
  f.slow = hit(emulation_.slow);
  f.duplicate = hit(emulation_.duplicate);
  f.garbage = hit(emulation_.garbage);
  return f;
}

void Dice::damage(std::span<std::byte> bytes) {
  if (bytes.empty()) return;
  for (size_t n = 1 + bytes.size() / 50; n; n--) {
    uint64_t r = random_();
    bytes[(r >> 8) % bytes.size()] ^= std::byte(r & 0xff ? r & 0xff : 1);
  }
}

}  // namespace djinn::transport
