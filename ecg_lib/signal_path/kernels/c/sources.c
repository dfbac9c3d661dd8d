/* What a library was built from: SHA-256 of the sources, which a test compares with them. */
#include "kernels.h"

KERNEL const char ecg_sources[] = ECG_SOURCES;
