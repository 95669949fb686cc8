/* Lengths and directions of edges, and their places in a spline of radial filters, for inference.
 *
 * For the receivers `first` to `last`, whose edges are start[i] to start[i + 1]. Geometry is in double precision.
 *
 * Compiled with -Dreal=<float or double>.
 */
#include <math.h>
#include <stdint.h>

#define EPS 1e-6

/* Vectors d from receiver to sender, r_j + k @ cell - r_i: `length` is sqrt(d^2 + EPS^2) - EPS, `unit` is d over the
 * root. */
void geometry(int64_t first, int64_t last, const int64_t *restrict start, const int64_t *restrict sender,
              const double *restrict shift, const int64_t *restrict crystal, const double *restrict positions,
              const double *restrict cells, real *restrict length, real *restrict unit) {
  for (int64_t i = first; i < last; i++)
    for (int64_t e = start[i]; e < start[i + 1]; e++) {
      const double *restrict k = shift + 3 * e, *restrict cell = cells + 9 * crystal[e];
      double d[3], square = EPS * EPS;
      for (int axis = 0; axis < 3; axis++) {
        d[axis] = positions[3 * sender[e] + axis] - positions[3 * i + axis] + k[0] * cell[axis] +
                  k[1] * cell[3 + axis] + k[2] * cell[6 + axis];
        square += d[axis] * d[axis];
      }
      const double root = sqrt(square);
      length[e] = (real)(root - EPS);
      for (int axis = 0; axis < 3; axis++) unit[3 * e + axis] = (real)(d[axis] / root);
    }
}

/* First knots, and weights of the four rows from there on times `inside`, of lengths minus the radii of both atoms.
 * `scale`: knots per A, the knot at zero, and the last knot. */
void places(int64_t first, int64_t last, const real *restrict scale, const int64_t *restrict start,
            const int64_t *restrict sender, const real *restrict length, const real *restrict radius,
            const real *restrict inside, int64_t *restrict knot, real *restrict weights) {
  for (int64_t i = first; i < last; i++)
    for (int64_t e = start[i]; e < start[i + 1]; e++) {
      real x = length[e] - radius[i] - radius[sender[e]];
      x = (x > 0 ? x : 0) * scale[0] + scale[1];
      x = x < scale[2] + 1 ? x : scale[2] + 1;
      int64_t place = (int64_t)x;
      place = place < (int64_t)scale[2] ? place : (int64_t)scale[2];
      const real t = x - (real)place, u = 1 - t, w = inside[e] / 6;
      knot[e] = place;
      weights[4 * e] = w * u * u * u;
      weights[4 * e + 1] = w * (3 * t * t * t - 6 * t * t + 4);
      weights[4 * e + 2] = w * (-3 * t * t * t + 3 * t * t + 3 * t + 1);
      weights[4 * e + 3] = w * t * t * t;
    }
}
