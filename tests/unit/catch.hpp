// Catch2, whichever of its two generations the machine has: 2 is one header, 3 is a library with an umbrella header. Tests include this one.
#pragma once
#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
using Catch::Approx;
#else
#include <catch2/catch.hpp>
#endif
