/* Messages of scalars, vectors and rank-2 tensors along edges, and their gradients.
 *
 * The sums of `repose.nn.tensor_messages.TensorMessage` for the receivers `first` to `last`, whose edges are start[i]
 * to start[i + 1]. F features in rows, innermost, so that every loop over features is vectorised. Filters are read
 * from a cubic B-spline: four rows of `table` (6F numbers each) with the weights `w` of the edge.
 *
 * Compiled with -DF=<features> and -Dreal=<float or double>.
 */
#include <stdint.h>

#define HALF ((real)0.70710678118654752440)
#define SIXTH ((real)0.40824829046386301637)

/* Constants of an edge: its direction, spline weights, and pointers to what belongs to sender and table. */
#define EDGE                                                                                                 \
  const int64_t j = sender[e];                                                                               \
  const real *restrict sj = s + j * 6 * F, *restrict vj = v + j * 3 * F, *restrict tj = t + j * 5 * F;       \
  const real *restrict row = table + knot[e] * 6 * F;                                                        \
  const real w0 = w[4 * e], w1 = w[4 * e + 1], w2 = w[4 * e + 2], w3 = w[4 * e + 3];                         \
  const real ux = u[3 * e], uy = u[3 * e + 1], uz = u[3 * e + 2];                                            \
  const real hx = HALF * ux, hy = HALF * uy, hz = HALF * uz;                                                 \
  const real sx = SIXTH * ux, sy = SIXTH * uy, sz = SIXTH * uz;                                              \
  const real d0 = 2 * hx * uy, d1 = 2 * hy * uz, d2 = 2 * hz * ux, d3 = hx * ux - hy * uy,                   \
             d4 = 2 * sz * uz - sx * ux - sy * uy;

#define SPLINE(k)                                                                                            \
  (w0 * row[k * F + f] + w1 * row[(6 + k) * F + f] + w2 * row[(12 + k) * F + f] + w3 * row[(18 + k) * F + f])

/* Features of the receivers, x (N, F), v and own_t, plus the sums of the messages of their neighbours. */
void messages(int64_t first, int64_t last, const int64_t *restrict start, const int64_t *restrict sender,
              const int64_t *restrict knot, const real *restrict w, const real *restrict u,
              const real *restrict table, const real *restrict s, const real *restrict v, const real *restrict t,
              const real *restrict x, const real *restrict own_t, real *restrict new_x, real *restrict new_v,
              real *restrict new_t) {
  for (int64_t i = first; i < last; i++) {
    real sum[9 * F];
    for (int k = 0; k < F; k++) sum[k] = x[i * F + k];
    for (int k = 0; k < 3 * F; k++) sum[F + k] = v[i * 3 * F + k];
    for (int k = 0; k < 5 * F; k++) sum[4 * F + k] = own_t[i * 5 * F + k];
    for (int64_t e = start[i]; e < start[i + 1]; e++) {
      EDGE
#pragma omp simd
      for (int f = 0; f < F; f++) {
        const real t0 = tj[f], t1 = tj[F + f], t2 = tj[2 * F + f], t3 = tj[3 * F + f], t4 = tj[4 * F + f];
        const real keep = SPLINE(1) * sj[F + f], lead = SPLINE(2) * sj[2 * F + f], turn = SPLINE(3) * sj[3 * F + f];
        const real stretch = SPLINE(4) * sj[4 * F + f], hold = SPLINE(5) * sj[5 * F + f];
        sum[f] += SPLINE(0) * sj[f];
        sum[F + f] += keep * vj[f] + lead * ux + turn * (hx * t3 - sx * t4 + hy * t0 + hz * t2);
        sum[2 * F + f] += keep * vj[F + f] + lead * uy + turn * (hx * t0 - hy * t3 - sy * t4 + hz * t1);
        sum[3 * F + f] += keep * vj[2 * F + f] + lead * uz + turn * (hx * t2 + hy * t1 + 2 * sz * t4);
        sum[4 * F + f] += stretch * d0 + hold * t0;
        sum[5 * F + f] += stretch * d1 + hold * t1;
        sum[6 * F + f] += stretch * d2 + hold * t2;
        sum[7 * F + f] += stretch * d3 + hold * t3;
        sum[8 * F + f] += stretch * d4 + hold * t4;
      }
    }
    for (int k = 0; k < F; k++) new_x[i * F + k] = sum[k];
    for (int k = 0; k < 3 * F; k++) new_v[i * 3 * F + k] = sum[F + k];
    for (int k = 0; k < 5 * F; k++) new_t[i * 5 * F + k] = sum[4 * F + k];
  }
}

/* The same where vectors and tensors of all atoms are zero, as before the first layer: three of six terms are left. */
void messages_of_scalars(int64_t first, int64_t last, const int64_t *restrict start, const int64_t *restrict sender,
                         const int64_t *restrict knot, const real *restrict w, const real *restrict u,
                         const real *restrict table, const real *restrict s, const real *restrict v,
                         const real *restrict t, const real *restrict x, const real *restrict own_t,
                         real *restrict new_x, real *restrict new_v, real *restrict new_t) {
  (void)own_t;
  for (int64_t i = first; i < last; i++) {
    real sum[9 * F];
    for (int k = 0; k < F; k++) sum[k] = x[i * F + k];
    for (int k = F; k < 9 * F; k++) sum[k] = 0;
    for (int64_t e = start[i]; e < start[i + 1]; e++) {
      EDGE
      (void)vj, (void)tj;
#pragma omp simd
      for (int f = 0; f < F; f++) {
        const real lead = SPLINE(2) * sj[2 * F + f], stretch = SPLINE(4) * sj[4 * F + f];
        sum[f] += SPLINE(0) * sj[f];
        sum[F + f] += lead * ux, sum[2 * F + f] += lead * uy, sum[3 * F + f] += lead * uz;
        sum[4 * F + f] += stretch * d0, sum[5 * F + f] += stretch * d1, sum[6 * F + f] += stretch * d2;
        sum[7 * F + f] += stretch * d3, sum[8 * F + f] += stretch * d4;
      }
    }
    for (int k = 0; k < F; k++) new_x[i * F + k] = sum[k];
    for (int k = 0; k < 3 * F; k++) new_v[i * 3 * F + k] = sum[F + k];
    for (int k = 0; k < 5 * F; k++) new_t[i * 5 * F + k] = sum[4 * F + k];
  }
}

/* Gradients of the sums without the receivers' own features; those of senders and of the table are added. */
void gradients(int64_t first, int64_t last, const int64_t *restrict start, const int64_t *restrict sender,
               const int64_t *restrict knot, const real *restrict w, const real *restrict u,
               const real *restrict table, const real *restrict s, const real *restrict v, const real *restrict t,
               const real *restrict given_x, const real *restrict given_v,
               const real *restrict given_t, real *restrict g_w, real *restrict g_u, real *restrict g_table,
               real *restrict g_s, real *restrict g_v, real *restrict g_t) {
  for (int64_t i = first; i < last; i++) {
    const real *restrict gx = given_x + i * F, *restrict ga = given_v + i * 3 * F, *restrict gb = given_t + i * 5 * F;
    for (int64_t e = start[i]; e < start[i + 1]; e++) {
      EDGE
      real *restrict gs = g_s + j * 6 * F, *restrict gv = g_v + j * 3 * F, *restrict gt = g_t + j * 5 * F;
      real *restrict gr = g_table + knot[e] * 6 * F;
      real q0 = 0, q1 = 0, q2 = 0, q3 = 0, px = 0, py = 0, pz = 0;
#pragma omp simd reduction(+ : q0, q1, q2, q3, px, py, pz)
      for (int f = 0; f < F; f++) {
        const real a = ga[f], b = ga[F + f], c = ga[2 * F + f];
        const real g0 = gb[f], g1 = gb[F + f], g2 = gb[2 * F + f], g3 = gb[3 * F + f], g4 = gb[4 * F + f];
        const real t0 = tj[f], t1 = tj[F + f], t2 = tj[2 * F + f], t3 = tj[3 * F + f], t4 = tj[4 * F + f];
        /* dyad of direction and gradient of the vector */
        const real l0 = hx * b + hy * a, l1 = hy * c + hz * b, l2 = hz * a + hx * c, l3 = hx * a - hy * b,
                   l4 = 2 * sz * c - sx * a - sy * b;
        const real p[6] = {gx[f], a * vj[f] + b * vj[F + f] + c * vj[2 * F + f], a * ux + b * uy + c * uz,
                           l0 * t0 + l1 * t1 + l2 * t2 + l3 * t3 + l4 * t4,
                           d0 * g0 + d1 * g1 + d2 * g2 + d3 * g3 + d4 * g4,
                           t0 * g0 + t1 * g1 + t2 * g2 + t3 * g3 + t4 * g4};
        real weight[6];
#pragma GCC unroll 6
        for (int k = 0; k < 6; k++) {
          const real r0 = row[k * F + f], r1 = row[(6 + k) * F + f];
          const real r2 = row[(12 + k) * F + f], r3 = row[(18 + k) * F + f];
          const real own = sj[k * F + f], filter = w0 * r0 + w1 * r1 + w2 * r2 + w3 * r3, of_filter = own * p[k];
          gs[k * F + f] += filter * p[k];
          q0 += r0 * of_filter, q1 += r1 * of_filter, q2 += r2 * of_filter, q3 += r3 * of_filter;
          gr[k * F + f] += w0 * of_filter;
          gr[(6 + k) * F + f] += w1 * of_filter;
          gr[(12 + k) * F + f] += w2 * of_filter;
          gr[(18 + k) * F + f] += w3 * of_filter;
          weight[k] = filter * own;
        }
        gv[f] += weight[1] * a, gv[F + f] += weight[1] * b, gv[2 * F + f] += weight[1] * c;
        gt[f] += weight[3] * l0 + weight[5] * g0;
        gt[F + f] += weight[3] * l1 + weight[5] * g1;
        gt[2 * F + f] += weight[3] * l2 + weight[5] * g2;
        gt[3 * F + f] += weight[3] * l3 + weight[5] * g3;
        gt[4 * F + f] += weight[3] * l4 + weight[5] * g4;
        const real lead = weight[2], turn = HALF * weight[3], turned = SIXTH * weight[3];
        const real bend = 2 * HALF * weight[4], bent = 2 * SIXTH * weight[4];
        px += lead * a + turn * (t3 * a + t0 * b + t2 * c) - turned * t4 * a +
              bend * (g3 * ux + g0 * uy + g2 * uz) - bent * g4 * ux;
        py += lead * b + turn * (t0 * a - t3 * b + t1 * c) - turned * t4 * b +
              bend * (g0 * ux - g3 * uy + g1 * uz) - bent * g4 * uy;
        pz += lead * c + turn * (t2 * a + t1 * b) + 2 * turned * t4 * c +
              bend * (g2 * ux + g1 * uy) + 2 * bent * g4 * uz;
      }
      g_w[4 * e] = q0, g_w[4 * e + 1] = q1, g_w[4 * e + 2] = q2, g_w[4 * e + 3] = q3;
      g_u[3 * e] = px, g_u[3 * e + 1] = py, g_u[3 * e + 2] = pz;
    }
  }
}
