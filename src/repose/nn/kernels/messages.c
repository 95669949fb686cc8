/* Messages of scalars and vectors along edges with gated filters, and their gradients.
 *
 * The sums of `repose.nn.messages.Message` for the receivers `first` to `last`, whose edges are start[i] to
 * start[i + 1]. F features in rows, innermost. Filters are read from a cubic B-spline: four rows of `table` (3F
 * numbers each) with the weights `w` of the edge. The gate of an edge multiplies them by 1 + tanh(SiLU(z)), where z
 * is the bias plus its A inputs times `matrix` (A, 3F). `extra` (E, 3F) is added to the filters before.
 *
 * Compiled with -DF=<features> -DA=<inputs, 0 without a gate> -DEXTRA=<0 or 1> and -Dreal=<float or double>.
 */
#include <stdint.h>
#include <string.h>

#define SINGLE (sizeof(real) == 4)

/* exp(x) as 2^n exp(r) with |r| < ln(2) / 2: a series, and n in the exponent. */
static inline real exponential(real x) {
  const real limit = SINGLE ? (real)87 : (real)700;
  x = x < -limit ? -limit : x > limit ? limit : x;
  const real shift = SINGLE ? (real)12582912.0 : (real)6755399441055744.0; /* adding it rounds to an integer */
  const real n = (x * (real)1.44269504088896340736 + shift) - shift;
  const real r = (x - n * (real)0.693145751953125) - n * (real)1.42860682030941723e-6;
  real sum = 1;
#pragma GCC unroll 16
  for (int k = SINGLE ? 7 : 13; k > 0; k--) sum = 1 + sum * r * (1 / (real)k);
  real power;
  if (SINGLE) {
    const int32_t bits = ((int32_t)n + 127) << 23;
    memcpy(&power, &bits, 4);
  } else {
    const int64_t bits = (int64_t)((uint64_t)((int64_t)n + 1023) << 52);
    memcpy(&power, &bits, sizeof(real) == 8 ? 8 : 4);
  }
  return sum * power;
}

static inline real sigmoid(real x) { return 1 / (1 + exponential(-x)); }

#define EDGE                                                                                                 \
  const int64_t j = sender[e];                                                                               \
  const real *restrict sj = s + j * 3 * F, *restrict vj = v + j * 3 * F;                                     \
  const real *restrict row = table + knot[e] * 3 * F, *restrict input = inputs + e * A;                      \
  const real w0 = w[4 * e], w1 = w[4 * e + 1], w2 = w[4 * e + 2], w3 = w[4 * e + 3];                         \
  const real ux = u[3 * e], uy = u[3 * e + 1], uz = u[3 * e + 2];                                            \
  (void)input, (void)matrix, (void)bias, (void)extra;

#define SPLINE(f)                                                                                            \
  (w0 * row[f] + w1 * row[3 * F + f] + w2 * row[6 * F + f] + w3 * row[9 * F + f] + (EXTRA ? extra[e * 3 * F + f] : 0))

/* Input of the gate for channel f of 3F. */
#define INNER(z, f)                                                                                          \
  real z = bias[f];                                                                                          \
  _Pragma("GCC unroll 16") for (int a = 0; a < A; a++) z += input[a] * matrix[a * 3 * F + f];

void messages(int64_t first, int64_t last, const int64_t *restrict start, const int64_t *restrict sender,
              const int64_t *restrict knot, const real *restrict w, const real *restrict u,
              const real *restrict table, const real *restrict s, const real *restrict v,
              const real *restrict inputs, const real *restrict matrix, const real *restrict bias,
              const real *restrict extra, real *restrict scalars, real *restrict vectors) {
  for (int64_t i = first; i < last; i++) {
    real sum[4 * F], filter[3 * F];
    for (int k = 0; k < 4 * F; k++) sum[k] = 0;
    for (int64_t e = start[i]; e < start[i + 1]; e++) {
      EDGE
#pragma omp simd
      for (int f = 0; f < 3 * F; f++) {
        filter[f] = SPLINE(f) * sj[f];
#if A > 0
        INNER(z, f)
        filter[f] *= 2 * sigmoid(2 * z * sigmoid(z));
#endif
      }
#pragma omp simd
      for (int f = 0; f < F; f++) {
        const real keep = filter[F + f], turn = filter[2 * F + f];
        sum[f] += filter[f];
        sum[F + f] += keep * vj[f] + turn * ux;
        sum[2 * F + f] += keep * vj[F + f] + turn * uy;
        sum[3 * F + f] += keep * vj[2 * F + f] + turn * uz;
      }
    }
    for (int k = 0; k < F; k++) scalars[i * F + k] = sum[k];
    for (int k = 0; k < 3 * F; k++) vectors[i * 3 * F + k] = sum[F + k];
  }
}

/* Gradients; those of senders, table, matrix and bias are added. */
void gradients(int64_t first, int64_t last, const int64_t *restrict start, const int64_t *restrict sender,
               const int64_t *restrict knot, const real *restrict w, const real *restrict u,
               const real *restrict table, const real *restrict s, const real *restrict v,
               const real *restrict inputs, const real *restrict matrix, const real *restrict bias,
               const real *restrict extra, const real *restrict given_x, const real *restrict given_v,
               real *restrict g_w, real *restrict g_u, real *restrict g_inputs, real *restrict g_extra,
               real *restrict g_table, real *restrict g_s, real *restrict g_v, real *restrict g_matrix, real *restrict g_bias) {
  for (int64_t i = first; i < last; i++) {
    const real *restrict gx = given_x + i * F, *restrict ga = given_v + i * 3 * F;
    for (int64_t e = start[i]; e < start[i + 1]; e++) {
      EDGE
      (void)g_extra, (void)g_bias;
      real *restrict gs = g_s + j * 3 * F, *restrict gv = g_v + j * 3 * F, *restrict gr = g_table + knot[e] * 3 * F;
      real p[3 * F], weight[3 * F], inner[3 * F];
#pragma omp simd
      for (int f = 0; f < F; f++) {
        p[f] = gx[f];
        p[F + f] = ga[f] * vj[f] + ga[F + f] * vj[F + f] + ga[2 * F + f] * vj[2 * F + f];
        p[2 * F + f] = ga[f] * ux + ga[F + f] * uy + ga[2 * F + f] * uz;
      }
      real q0 = 0, q1 = 0, q2 = 0, q3 = 0, px = 0, py = 0, pz = 0;
#pragma omp simd reduction(+ : q0, q1, q2, q3)
      for (int f = 0; f < 3 * F; f++) {
        const real r0 = row[f], r1 = row[3 * F + f], r2 = row[6 * F + f], r3 = row[9 * F + f];
        const real filter = SPLINE(f);
        real gate = 1;
#if A > 0
        INNER(z, f)
        const real slope = sigmoid(z);
        gate = 2 * sigmoid(2 * z * slope);
        inner[f] = filter * sj[f] * p[f] * gate * (2 - gate) * slope * (1 + z * (1 - slope));
        g_bias[f] += inner[f];
#endif
        const real of_filter = gate * sj[f] * p[f];
#if EXTRA
        g_extra[e * 3 * F + f] = of_filter;
#endif
        gs[f] += filter * gate * p[f];
        weight[f] = filter * gate * sj[f];
        q0 += r0 * of_filter, q1 += r1 * of_filter, q2 += r2 * of_filter, q3 += r3 * of_filter;
        gr[f] += w0 * of_filter, gr[3 * F + f] += w1 * of_filter;
        gr[6 * F + f] += w2 * of_filter, gr[9 * F + f] += w3 * of_filter;
      }
#pragma omp simd reduction(+ : px, py, pz)
      for (int f = 0; f < F; f++) {
        const real keep = weight[F + f], turn = weight[2 * F + f];
        gv[f] += keep * ga[f], gv[F + f] += keep * ga[F + f], gv[2 * F + f] += keep * ga[2 * F + f];
        px += turn * ga[f], py += turn * ga[F + f], pz += turn * ga[2 * F + f];
      }
      for (int a = 0; a < A; a++) {
        real total = 0;
#pragma omp simd reduction(+ : total)
        for (int f = 0; f < 3 * F; f++) {
          total += inner[f] * matrix[a * 3 * F + f];
          g_matrix[a * 3 * F + f] += inner[f] * input[a];
        }
        g_inputs[e * A + a] = total;
      }
      g_w[4 * e] = q0, g_w[4 * e + 1] = q1, g_w[4 * e + 2] = q2, g_w[4 * e + 3] = q3;
      g_u[3 * e] = px, g_u[3 * e + 1] = py, g_u[3 * e + 2] = pz;
    }
  }
}
