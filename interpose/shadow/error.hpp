// Errors as CUDA keeps them: each thread's last error, and asynchronous ones that arrive from the server and are returned by the next call that may
// report them. An asynchronous error's words (op, reason) are appended to cudaGetErrorString of its code, so that Python's exception names them.
#pragma once
#include <string>
#include <string_view>

#include "interpose/client.hpp"

namespace djinn {

void latch_error(const wire::Error& e, std::string_view operation, std::string_view text);
// "aten::embedding: index out of range"; the operation may be empty.
std::string error_words(std::string_view operation, std::string_view text);
// Of the last error that was latched.
std::string latest_error_text();
// A failed call, told by its own reply: becomes this thread's last error, with the reply's words.
cudaError_t fail_with(const Reply& r);
// What CUDA makes sticky (a lost session too): every later call returns it. cudaSuccess while there is none.
cudaError_t sticky_error();

// The session is over: every later call returns lost_error(). Says so once.
void lose_session(const char* reason);
cudaError_t lost_error();
std::string lost_reason();

cudaError_t get_last_error(bool clear);
const char* error_name(cudaError_t e);
const char* error_string(cudaError_t e);
CUresult to_driver(cudaError_t e);

}  // namespace djinn
