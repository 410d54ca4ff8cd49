// The table that the hook is started with, for tests that play the hook's part.
#pragma once
#include "interpose/client.hpp"

DJINN_EXPORT const djinn_hook_host* djinn_hook_host_get(void);
