# mnemo_simt, the stand-in for a GPU (machine.h), and what lets CUDA sources be compiled for it.
#
# mnemo_emulate(TARGET SOURCES...): adds .cu files to a target as C++; CUDA's headers, and those of
# the project that name instructions, are found in shadow/.
set(mnemo_simt_folder ${CMAKE_CURRENT_LIST_DIR})
set(mnemo_simt_shadow ${mnemo_simt_folder}/shadow ${CMAKE_BINARY_DIR}/simt/headers)
# Kernels look at bytes through other types.
set(mnemo_simt_options -O2 -ffp-contract=off -fno-strict-aliasing)
if(MNEMO_NATIVE)
  list(APPEND mnemo_simt_options -march=native)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  list(APPEND mnemo_simt_options -march=x86-64-v3)
endif()
find_package(Python3 REQUIRED COMPONENTS Interpreter)

if(NOT TARGET mnemo_simt)
  find_library(MNEMO_BOOST_CONTEXT boost_context REQUIRED)
  add_library(mnemo_simt STATIC
    ${mnemo_simt_folder}/copies.cc
    ${mnemo_simt_folder}/device_memory.cc
    ${mnemo_simt_folder}/machine.cc
    ${mnemo_simt_folder}/matmul.cc
    ${mnemo_simt_folder}/products.cc)
  set_target_properties(mnemo_simt PROPERTIES UNITY_BUILD OFF)
  target_include_directories(mnemo_simt BEFORE PRIVATE ${mnemo_simt_folder}/shadow)
  target_link_libraries(mnemo_simt PUBLIC mnemo_options ${MNEMO_BOOST_CONTEXT})
  target_compile_options(mnemo_simt PRIVATE ${mnemo_simt_options})
endif()

# `out`: the source without launches.
function(mnemo_without_launches source out)
  add_custom_command(OUTPUT ${out}
    COMMAND ${Python3_EXECUTABLE} ${mnemo_simt_folder}/launches.py ${source} ${out}
    DEPENDS ${source} ${mnemo_simt_folder}/launches.py VERBATIM)
endfunction()

function(mnemo_emulate target)
  set(folder ${CMAKE_BINARY_DIR}/simt)
  # The one header that launches.
  set(loop src/core/cuda/loop.cuh)
  file(MAKE_DIRECTORY ${folder}/headers/src/core/cuda ${folder}/${target})
  if(NOT TARGET mnemo_simt_headers)
    mnemo_without_launches(${PROJECT_SOURCE_DIR}/${loop} ${folder}/headers/${loop})
    add_custom_target(mnemo_simt_headers DEPENDS ${folder}/headers/${loop})
  endif()
  foreach(source ${ARGN})
    get_filename_component(source ${source} ABSOLUTE)
    get_filename_component(name ${source} NAME)
    set(out ${folder}/${target}/${name}.cc)
    mnemo_without_launches(${source} ${out})
    target_sources(${target} PRIVATE ${out})
    set_source_files_properties(${out} PROPERTIES SKIP_PRECOMPILE_HEADERS ON SKIP_UNITY_BUILD_INCLUSION ON
      COMPILE_OPTIONS "${mnemo_simt_options};-Wno-unknown-pragmas;-Wno-unused-function;-Wno-maybe-uninitialized")
  endforeach()
  add_dependencies(${target} mnemo_simt_headers)
  target_include_directories(${target} BEFORE PUBLIC ${mnemo_simt_shadow})
  target_link_libraries(${target} PUBLIC mnemo_simt)
endfunction()
