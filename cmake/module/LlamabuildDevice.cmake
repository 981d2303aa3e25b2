# An object from a CUDA source, compiled by nvcc as a whole and appended to the list that `result` names.
function(llamabuild_device_object result source)
  string(MAKE_C_IDENTIFIER "${source}" name)
  set(object "${CMAKE_CURRENT_BINARY_DIR}/device/${name}${CMAKE_CXX_OUTPUT_EXTENSION}")
  file(MAKE_DIRECTORY "${CMAKE_CURRENT_BINARY_DIR}/device")
  add_custom_command(
    OUTPUT "${object}"
    COMMAND "${LLAMABUILD_NVCC}" ${LLAMABUILD_NVCC_FLAGS} -c "${source}" -o "${object}"
    WORKING_DIRECTORY "${LLAMABUILD_ROOT}"
    DEPENDS "${LLAMABUILD_ROOT}/${source}"
    COMMENT "nvcc ${source}"
    VERBATIM)
  set(${result} ${${result}} "${object}" PARENT_SCOPE)
endfunction()
