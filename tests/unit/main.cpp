// main() of every Catch2 program, compiled once. Catch2 3 brings its own as a library; this file is then not built.
#define CATCH_CONFIG_MAIN
#include <catch2/catch.hpp>
