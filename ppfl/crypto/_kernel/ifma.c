/* The operations on AVX-512 IFMA. Elsewhere than on x86-64 it says that it cannot run. */
#if defined(__x86_64__) && defined(__GNUC__)
#include "ifma.h"

#include "operations.h"
#else

int ppfl_ifma_supported(void) { return 0; }

#endif

/* To be raised, here and in lanes.py, whenever what Python passes changes. */
int ppfl_interface(void) { return 2; }
