# Imported targets for libtorch, made by hand from the wheel's include and lib folders: find_package(Torch) of a CUDA wheel dies without a toolkit.
# DJINN_TORCH_DIR lists torch packages, one per minor version; each gets a build of the hook and of the executor, from the same sources:
#   torch-2.14::cpu   c10 and torch_cpu: what the executor links
#   torch-2.14::cuda  also c10_cuda and torch_cuda: what the hook links (both are in the process already)
# torch::cpu is the first one's, for tests that link libtorch themselves. DJINN_TORCH_MINORS lists the versions.
if(NOT DJINN_TORCH_DIR)
  # the environments that scripts/setup made, if it did; cuda.cmake finds the vendor's headers beside the first, with or without the hook
  execute_process(COMMAND ${PROJECT_SOURCE_DIR}/scripts/setup --print-torch OUTPUT_VARIABLE djinn_torch_found
                  OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE djinn_torch_missing)
  if(djinn_torch_missing EQUAL 0)
    set(DJINN_TORCH_DIR ${djinn_torch_found})
  endif()
endif()
if(DJINN_TORCH_DIR)
  list(GET DJINN_TORCH_DIR 0 djinn_first_torch)
endif()

# The CUDA wheels beside a torch package carry the headers that it was built with.
function(djinn_cuda_headers_beside torch result)
  get_filename_component(site ${torch} DIRECTORY)
  set(found)
  foreach(folder cu13 cudnn nccl cusparselt)
    if(IS_DIRECTORY ${site}/nvidia/${folder}/include)
      list(APPEND found ${site}/nvidia/${folder}/include)
    endif()
  endforeach()
  set(${result} ${found} PARENT_SCOPE)
endfunction()

if(NOT DJINN_TORCH)
  return()
endif()
if(NOT DJINN_TORCH_DIR)
  message(FATAL_ERROR "DJINN_TORCH is ON but DJINN_TORCH_DIR is not set. scripts/setup makes an environment and finds it again; "
                      "by hand: -DDJINN_TORCH_DIR=…/site-packages/torch, or -DDJINN_TORCH=OFF for the core alone.")
endif()

function(djinn_import_torch directory)
  if(NOT EXISTS ${directory}/version.py)
    message(FATAL_ERROR "DJINN_TORCH_DIR: ${directory} holds no version.py: it must be the torch package's own folder.")
  endif()
  file(STRINGS ${directory}/version.py line REGEX "^__version__ = ")
  string(REGEX MATCH "[0-9]+\\.[0-9]+\\.[0-9]+" version "${line}")
  string(REGEX MATCH "^[0-9]+\\.[0-9]+" minor "${version}")
  if(minor IN_LIST DJINN_TORCH_MINORS)
    message(FATAL_ERROR "DJINN_TORCH_DIR names two packages of torch ${minor}")
  endif()
  message(STATUS "torch ${version} in ${directory}")
  string(REPLACE "." ";" numbers ${minor})
  list(GET numbers 0 major)
  list(GET numbers 1 number)
  math(EXPR number "${major} * 100 + ${number}")  # 2.14 is 214, for the few lines that differ
  foreach(lib c10 torch_cpu c10_cuda torch_cuda)
    add_library(torch-${minor}::${lib} SHARED IMPORTED GLOBAL)
    set_target_properties(torch-${minor}::${lib} PROPERTIES IMPORTED_LOCATION ${directory}/lib/lib${lib}.so)
  endforeach()
  add_library(torch-${minor}::cpu INTERFACE IMPORTED GLOBAL)
  target_include_directories(torch-${minor}::cpu SYSTEM INTERFACE ${directory}/include ${directory}/include/torch/csrc/api/include)
  target_compile_definitions(torch-${minor}::cpu INTERFACE DJINN_TORCH_VERSION="${version}" DJINN_TORCH_MINOR="${minor}" DJINN_TORCH_NUMBER=${number})
  target_link_libraries(torch-${minor}::cpu INTERFACE torch-${minor}::torch_cpu torch-${minor}::c10)
  # The wheel's libraries find their own dependencies in the process; the linker need not.
  target_link_options(torch-${minor}::cpu INTERFACE -Wl,--unresolved-symbols=ignore-in-shared-libs)
  add_library(torch-${minor}::cuda INTERFACE IMPORTED GLOBAL)
  djinn_cuda_headers_beside(${directory} headers)
  target_include_directories(torch-${minor}::cuda SYSTEM INTERFACE ${headers})
  target_link_libraries(torch-${minor}::cuda INTERFACE torch-${minor}::cpu torch-${minor}::torch_cuda torch-${minor}::c10_cuda)
  set(DJINN_TORCH_MINORS ${DJINN_TORCH_MINORS} ${minor} PARENT_SCOPE)
endfunction()

foreach(directory ${DJINN_TORCH_DIR})
  djinn_import_torch(${directory})
endforeach()
list(GET DJINN_TORCH_MINORS 0 djinn_first)
add_library(torch::cpu ALIAS torch-${djinn_first}::cpu)
