// Which module of the program's model is being called, as a path ("transformer.h.3.attn.c_proj"): nn.Module's __call__ is surrounded, once torch.nn
// is there, by a note of where the call is, in this thread's scope. Whatever is posted meanwhile is of that module: errors name it. Nothing else
// changes; a compiled region (torch.compile) does not see it. No Python in the process, or no torch.nn: nothing happens.
#pragma once

namespace djinn::hook {

// From any thread, with or without the interpreter's lock: Python is asked to do it when it comes by (a pending call).
void track_modules();

}  // namespace djinn::hook
