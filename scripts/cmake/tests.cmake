# The two ways of adding tests; both make one CTest test per test case, so that one case can be run, counted and skipped by itself.
#   djinn_add_test(NAME wire_test SOURCES frame.cpp codec.cpp LIBS djinn_wire LABELS core [SERIAL] [TIMEOUT 300])  a Catch2 program
#   djinn_add_python_tests(test_faults.py LABELS fault [SERIAL] [TIMEOUT 300])                                             a unittest file over tests/harness.py
# Labels (one each): core (no torch), torch, fault, bench-smoke.

find_package(Catch2 REQUIRED)
include(${Catch2_DIR}/Catch.cmake)
if(Catch2_VERSION VERSION_GREATER_EQUAL 3)
  add_library(djinn_catch INTERFACE)
  target_link_libraries(djinn_catch INTERFACE Catch2::Catch2WithMain)
else()
  add_library(djinn_catch STATIC ${PROJECT_SOURCE_DIR}/tests/unit/main.cpp)
  target_link_libraries(djinn_catch PUBLIC Catch2::Catch2)
endif()
target_include_directories(djinn_catch INTERFACE ${PROJECT_SOURCE_DIR})

# The interpreter of the tests is the one that owns the torch package: it lies three folders above site-packages.
if(NOT DJINN_PYTHON AND DJINN_TORCH_DIR AND EXISTS ${DJINN_TORCH_DIR}/../../../../bin/python)
  get_filename_component(djinn_env ${DJINN_TORCH_DIR}/../../../.. ABSOLUTE)
  set(DJINN_PYTHON ${djinn_env}/bin/python)
endif()
if(NOT DJINN_PYTHON)
  set(DJINN_PYTHON ${Python3_EXECUTABLE})
endif()

set(djinn_labels core torch fault bench-smoke)

function(djinn_check_label label)
  if(NOT label IN_LIST djinn_labels)
    message(FATAL_ERROR "Test label '${label}' is none of: ${djinn_labels}")
  endif()
endfunction()

function(djinn_add_test)
  cmake_parse_arguments(T "SERIAL" "NAME;LABELS;TIMEOUT" "SOURCES;LIBS" ${ARGN})
  if(NOT T_NAME OR NOT T_SOURCES OR T_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "djinn_add_test: NAME and SOURCES are needed; not understood: '${T_UNPARSED_ARGUMENTS}'")
  endif()
  djinn_check_label("${T_LABELS}")
  if(NOT T_TIMEOUT)
    set(T_TIMEOUT 120)
  endif()
  add_executable(${T_NAME} ${T_SOURCES})
  target_link_libraries(${T_NAME} PRIVATE ${T_LIBS} djinn_catch Threads::Threads)
  set_target_properties(${T_NAME} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  # one label and one variable: catch_discover_tests does not carry lists
  set(properties LABELS ${T_LABELS} TIMEOUT ${T_TIMEOUT} ENVIRONMENT "DJINN_BUILD=${CMAKE_BINARY_DIR}")
  if(T_SERIAL)
    list(APPEND properties RUN_SERIAL ON)
  endif()
  catch_discover_tests(${T_NAME} TEST_PREFIX "${T_NAME}/" PROPERTIES ${properties})
endfunction()

function(djinn_add_python_tests file)
  cmake_parse_arguments(T "SERIAL" "LABELS;TIMEOUT" "" ${ARGN})
  if(T_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "djinn_add_python_tests: not understood: '${T_UNPARSED_ARGUMENTS}'")
  endif()
  djinn_check_label("${T_LABELS}")
  if(NOT T_TIMEOUT)
    set(T_TIMEOUT 300)
  endif()
  get_filename_component(path ${file} ABSOLUTE)
  get_filename_component(name ${file} NAME_WE)
  string(REGEX REPLACE "^test_" "" name ${name})
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${path})
  execute_process(COMMAND ${Python3_EXECUTABLE} ${PROJECT_SOURCE_DIR}/scripts/cmake/test_cases.py ${path}
                  OUTPUT_VARIABLE cases OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
  string(REPLACE "\n" ";" cases "${cases}")
  # Tests of the torch label compute with all cores: beside each other they would only take them from one another. Waiting threads sleep instead of
  # spinning, so that a busy machine slows a test down and does not stop it.
  cmake_host_system_information(RESULT cores QUERY NUMBER_OF_LOGICAL_CORES)
  if(NOT T_LABELS STREQUAL torch)
    set(cores 2)
  endif()
  foreach(case ${cases})
    add_test(NAME "${name}/${case}" COMMAND ${DJINN_PYTHON} ${path} ${case})
    set_tests_properties("${name}/${case}" PROPERTIES LABELS ${T_LABELS} TIMEOUT ${T_TIMEOUT} PROCESSORS ${cores}
                         ENVIRONMENT "DJINN_BUILD=${CMAKE_BINARY_DIR};PYTHONDONTWRITEBYTECODE=1;OMP_WAIT_POLICY=passive" SKIP_REGULAR_EXPRESSION "OK .skipped=")
    if(T_SERIAL)
      set_tests_properties("${name}/${case}" PROPERTIES RUN_SERIAL ON)
    endif()
  endforeach()
endfunction()
