/* What templates need of windows. */
#ifndef ECG_WINDOWS_H
#define ECG_WINDOWS_H

#include "kernels.h"

/* QRS width in seconds, from a row and the sample of its R-peak, with 62 samples on both sides. */
double measure_width(const float *centre, float floor);

/* Centre values that are `step` apart, and scale them to length one. */
void unit_row(const float *row, i64 n, i64 step, float *unit);

double product(const float *one, const float *other, i64 n);

#endif
