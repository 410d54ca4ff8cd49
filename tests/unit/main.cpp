// main() of every Catch2 2 program, compiled once and with our own flags: Debian's library with a main was built for another C++ standard and without
// sanitizers. Catch2 3 brings its own; this file is then not built.
#define CATCH_CONFIG_MAIN
#include <catch2/catch.hpp>
