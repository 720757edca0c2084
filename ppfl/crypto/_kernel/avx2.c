/* The operations on AVX2. Elsewhere than on x86-64 it says that it cannot run. */
#if defined(__x86_64__) && defined(__GNUC__)
#include "avx2.h"

#include "operations.h"
#else

int ppfl_avx2_supported(void) { return 0; }

#endif
