# Imported targets for libtorch, made by hand from the wheel's include and lib folders: find_package(Torch) of a CUDA wheel dies without a toolkit.
#   torch::cpu   c10 and torch_cpu: what the executor links
#   torch::cuda  also c10_cuda and torch_cuda: what the hook links (both are in the process already)
if(NOT DJINN_TORCH_DIR)
  # the environment that scripts/setup made, if it did; cuda.cmake finds the vendor's headers beside it, with or without the hook
  execute_process(COMMAND ${PROJECT_SOURCE_DIR}/scripts/setup --print-torch OUTPUT_VARIABLE djinn_torch_found
                  OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE djinn_torch_missing)
  if(djinn_torch_missing EQUAL 0)
    set(DJINN_TORCH_DIR ${djinn_torch_found})
  endif()
endif()
if(NOT DJINN_TORCH)
  return()
endif()
if(NOT DJINN_TORCH_DIR)
  message(FATAL_ERROR "DJINN_TORCH is ON but DJINN_TORCH_DIR is not set. scripts/setup makes an environment and finds it again; "
                      "by hand: -DDJINN_TORCH_DIR=…/site-packages/torch, or -DDJINN_TORCH=OFF for the core alone.")
endif()
if(NOT EXISTS ${DJINN_TORCH_DIR}/version.py)
  message(FATAL_ERROR "DJINN_TORCH_DIR=${DJINN_TORCH_DIR} holds no version.py: it must be the torch package's own folder.")
endif()
file(STRINGS ${DJINN_TORCH_DIR}/version.py djinn_version_line REGEX "^__version__ = ")
string(REGEX MATCH "[0-9]+\\.[0-9]+\\.[0-9]+" DJINN_TORCH_VERSION "${djinn_version_line}")
string(REGEX MATCH "^[0-9]+\\.[0-9]+" DJINN_TORCH_MINOR "${DJINN_TORCH_VERSION}")
message(STATUS "torch ${DJINN_TORCH_VERSION} in ${DJINN_TORCH_DIR}")

foreach(lib c10 torch_cpu c10_cuda torch_cuda)
  add_library(torch::${lib} SHARED IMPORTED GLOBAL)
  set_target_properties(torch::${lib} PROPERTIES IMPORTED_LOCATION ${DJINN_TORCH_DIR}/lib/lib${lib}.so)
endforeach()
add_library(torch::cpu INTERFACE IMPORTED GLOBAL)
target_include_directories(torch::cpu SYSTEM INTERFACE ${DJINN_TORCH_DIR}/include ${DJINN_TORCH_DIR}/include/torch/csrc/api/include)
target_compile_definitions(torch::cpu INTERFACE DJINN_TORCH_VERSION="${DJINN_TORCH_VERSION}" DJINN_TORCH_MINOR="${DJINN_TORCH_MINOR}")
target_link_libraries(torch::cpu INTERFACE torch::torch_cpu torch::c10)
# The wheel's libraries find their own dependencies in the process; the linker need not.
target_link_options(torch::cpu INTERFACE -Wl,--unresolved-symbols=ignore-in-shared-libs)
add_library(torch::cuda INTERFACE IMPORTED GLOBAL)
target_link_libraries(torch::cuda INTERFACE torch::cpu torch::torch_cuda torch::c10_cuda cuda::headers)
