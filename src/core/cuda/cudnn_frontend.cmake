# The headers of NVIDIA's cuDNN frontend (MIT), which no package of Debian holds: from the folder
# that MNEMO_CUDNN_FRONTEND names, or from PyPI, checked against the digest below and kept in the
# build folder. Sets mnemo_cudnn_frontend_include.
set(MNEMO_CUDNN_FRONTEND "" CACHE PATH
    "Folder with cudnn_frontend.h; empty: it is downloaded (for machines that cannot)")

if(MNEMO_CUDNN_FRONTEND)
  set(mnemo_cudnn_frontend_include ${MNEMO_CUDNN_FRONTEND})
else()
  set(folder ${CMAKE_BINARY_DIR}/cudnn_frontend-1.15.0)
  set(mnemo_cudnn_frontend_include ${folder}/include)
  if(NOT EXISTS ${folder}/include/cudnn_frontend.h)
    set(packages https://files.pythonhosted.org/packages)
    set(wheel nvidia_cudnn_frontend-1.15.0-cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64)
    message(STATUS "Downloading the cuDNN frontend's headers from PyPI")
    file(DOWNLOAD
         ${packages}/0e/52/5b77edb810063c10040ac34e1517ee62690c4f030f0cf68298a4608552bc/${wheel}.whl
         ${CMAKE_BINARY_DIR}/cudnn_frontend.whl TIMEOUT 300 STATUS status
         EXPECTED_HASH
         SHA256=21ac16e4add264839a8db570d5378bb6583bf9539649d80bc8802ded00098a20)
    list(GET status 0 code)
    if(NOT code EQUAL 0)
      list(GET status 1 reason)
      message(FATAL_ERROR "the cuDNN frontend's headers cannot be downloaded (${reason}); fetch "
              "nvidia-cudnn-frontend 1.15.0 from PyPI elsewhere, unpack it, and name the folder "
              "that holds cudnn_frontend.h with -DMNEMO_CUDNN_FRONTEND=FOLDER")
    endif()
    file(ARCHIVE_EXTRACT INPUT ${CMAKE_BINARY_DIR}/cudnn_frontend.whl DESTINATION ${folder})
  endif()
endif()
if(NOT EXISTS ${mnemo_cudnn_frontend_include}/cudnn_frontend.h)
  message(FATAL_ERROR "no cudnn_frontend.h in ${mnemo_cudnn_frontend_include}")
endif()
