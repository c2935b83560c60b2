# Run at every build (cmake -P): writes OUTPUT from INPUT with the present commit, and leaves the
# file alone when nothing changed, so that nothing is compiled again.
execute_process(COMMAND git -C ${SOURCE_DIR} describe --always --dirty --abbrev=12 --exclude=*
                OUTPUT_VARIABLE MNEMO_COMMIT OUTPUT_STRIP_TRAILING_WHITESPACE
                RESULT_VARIABLE result ERROR_QUIET)
if(NOT result EQUAL 0)
  set(MNEMO_COMMIT "unknown")  # not a git checkout
endif()
configure_file(${INPUT} ${OUTPUT} @ONLY)
