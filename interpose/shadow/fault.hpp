// DJINN_DEBUG=fault: device memory is mapped without any right, so that a program that touches it gets SIGSEGV where it does; this says which
// allocation it was before the signal takes its course.
#pragma once

namespace djinn {

void watch_faults();

}  // namespace djinn
