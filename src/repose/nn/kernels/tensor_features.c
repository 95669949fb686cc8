/* Update and readout of scalars, vectors and rank-2 tensors of atoms, and their gradients.
 *
 * Functions work on the atoms or on the crystals `first` to `last`; the atoms of crystal c are start[c] to
 * start[c + 1]. F features in rows, innermost: x (N, F), v (N, 3, F), t (N, 5, F). Mixed vectors vv (N, 3, 2F) and
 * tensors tt (N, 5, 2F) hold two linear maps of v and of t side by side: a and b, c and d below.
 *
 * Compiled with -DF=<features> and -Dreal=<float or double>.
 */
#include <math.h>
#include <stdint.h>

#define HALF ((real)0.70710678118654752440)
#define SIXTH ((real)0.40824829046386301637)
#define EPS ((real)1e-6)
#define SQRT(x) (sizeof(real) == 4 ? (real)sqrtf((float)(x)) : (real)sqrt((double)(x)))
#define ROOT(square) SQRT((square) + EPS * EPS)

#define SQUARE3(a) (a##0 * a##0 + a##1 * a##1 + a##2 * a##2)
#define SQUARE5(a) (SQUARE3(a) + a##3 * a##3 + a##4 * a##4)
#define DOT3(a, b) (a##0 * b##0 + a##1 * b##1 + a##2 * b##2)
#define DOT5(a, b) (DOT3(a, b) + a##3 * b##3 + a##4 * b##4)

/* Feature f of vectors or tensors whose components are `stride` numbers apart. */
#define READ3(a, from, stride) const real a##0 = (from)[f], a##1 = (from)[stride + f], a##2 = (from)[2 * stride + f];
#define READ5(a, from, stride)                                                                               \
  READ3(a, from, stride) const real a##3 = (from)[3 * stride + f], a##4 = (from)[4 * stride + f];
#define WRITE3(to, stride, p, q, r) (to)[f] = p, (to)[stride + f] = q, (to)[2 * stride + f] = r
#define WRITE5(to, stride, p, q, r, s, u)                                                                    \
  WRITE3(to, stride, p, q, r), (to)[3 * stride + f] = s, (to)[4 * stride + f] = u

/* Tensor t times vector u, and symmetric traceless part of the product of vectors u and w. */
#define TIMES(o, t, u)                                                                                       \
  const real o##0 = HALF * (t##3 * u##0 + t##0 * u##1 + t##2 * u##2) - SIXTH * t##4 * u##0,                  \
             o##1 = HALF * (t##0 * u##0 - t##3 * u##1 + t##1 * u##2) - SIXTH * t##4 * u##1,                  \
             o##2 = HALF * (t##2 * u##0 + t##1 * u##1) + 2 * SIXTH * t##4 * u##2;
#define DYAD(o, u, w)                                                                                        \
  const real o##0 = HALF * (u##0 * w##1 + u##1 * w##0), o##1 = HALF * (u##1 * w##2 + u##2 * w##1),           \
             o##2 = HALF * (u##2 * w##0 + u##0 * w##2), o##3 = HALF * (u##0 * w##0 - u##1 * w##1),           \
             o##4 = SIXTH * (2 * u##2 * w##2 - u##0 * w##0 - u##1 * w##1);

/* Means over crystals: of scalars `own` (S, F), and of d (S, 5, F). */
void means(int64_t first, int64_t last, const int64_t *restrict start, const real *restrict own,
           const real *restrict tt, real *restrict mean_x, real *restrict mean_t) {
  for (int64_t c = first; c < last; c++) {
    const real share = 1 / (real)(start[c + 1] - start[c]);
    real *restrict x = mean_x + c * F, *restrict t = mean_t + c * 5 * F;
    for (int f = 0; f < F; f++) x[f] = 0;
    for (int f = 0; f < 5 * F; f++) t[f] = 0;
    for (int64_t i = start[c]; i < start[c + 1]; i++) {
      for (int f = 0; f < F; f++) x[f] += share * own[i * F + f];
      for (int k = 0; k < 5; k++)
        for (int f = 0; f < F; f++) t[k * F + f] += share * tt[(i * 10 + 2 * k + 1) * F + f];
    }
  }
}

/* Invariants (N, 5F) of atoms: own scalars, their mean over the crystal, lengths of a and of c, and the product of c
 * with the mean of d, over one plus the length of that mean. */
void invariants(int64_t first, int64_t last, const int64_t *restrict crystal, const real *restrict own,
                const real *restrict vv, const real *restrict tt, const real *restrict mean_x,
                const real *restrict mean_t, real *restrict out) {
  for (int64_t i = first; i < last; i++) {
    const real *restrict va = vv + i * 6 * F, *restrict ta = tt + i * 10 * F;
    const real *restrict x = mean_x + crystal[i] * F, *restrict t = mean_t + crystal[i] * 5 * F;
    real *restrict o = out + i * 5 * F;
#pragma omp simd
    for (int f = 0; f < F; f++) {
      READ3(a, va, 2 * F) READ5(c, ta, 2 * F) READ5(m, t, F)
      o[f] = own[i * F + f];
      o[F + f] = x[f];
      o[2 * F + f] = ROOT(SQUARE3(a)) - EPS;
      o[3 * F + f] = ROOT(SQUARE5(c)) - EPS;
      o[4 * F + f] = DOT5(c, m) / (1 + ROOT(SQUARE5(m)) - EPS);
    }
  }
}

void invariants_gradients(int64_t first, int64_t last, const int64_t *restrict start, const real *restrict vv,
                          const real *restrict tt, const real *restrict mean_t, const real *restrict given,
                          real *restrict g_own, real *restrict g_vv, real *restrict g_tt) {
  for (int64_t n = first; n < last; n++) {
    const real share = 1 / (real)(start[n + 1] - start[n]);
    const real *restrict t = mean_t + n * 5 * F;
    real of_x[F], of_t[5 * F];
    for (int f = 0; f < F; f++) of_x[f] = 0;
    for (int f = 0; f < 5 * F; f++) of_t[f] = 0;
    for (int64_t i = start[n]; i < start[n + 1]; i++) {
      const real *restrict va = vv + i * 6 * F, *restrict ta = tt + i * 10 * F, *restrict g = given + i * 5 * F;
      real *restrict ga = g_vv + i * 6 * F, *restrict gc = g_tt + i * 10 * F;
#pragma omp simd
      for (int f = 0; f < F; f++) {
        READ3(a, va, 2 * F) READ5(c, ta, 2 * F) READ5(m, t, F)
        const real root = ROOT(SQUARE5(m)), over = 1 / (1 + root - EPS);
        const real p = g[2 * F + f] / ROOT(SQUARE3(a)), q = g[3 * F + f] / ROOT(SQUARE5(c));
        const real r = g[4 * F + f] * over, s = r * DOT5(c, m) * over / root;
        WRITE3(ga, 2 * F, p * a0, p * a1, p * a2);
        WRITE3(ga + F, 2 * F, 0, 0, 0);
        WRITE5(gc, 2 * F, q * c0 + r * m0, q * c1 + r * m1, q * c2 + r * m2, q * c3 + r * m3, q * c4 + r * m4);
        of_x[f] += share * g[F + f];
        of_t[f] += share * (r * c0 - s * m0);
        of_t[F + f] += share * (r * c1 - s * m1);
        of_t[2 * F + f] += share * (r * c2 - s * m2);
        of_t[3 * F + f] += share * (r * c3 - s * m3);
        of_t[4 * F + f] += share * (r * c4 - s * m4);
      }
    }
    for (int64_t i = start[n]; i < start[n + 1]; i++) {
      for (int f = 0; f < F; f++) g_own[i * F + f] = given[i * 5 * F + f] + of_x[f];
      for (int k = 0; k < 5; k++)
        for (int f = 0; f < F; f++) g_tt[(i * 10 + 2 * k + 1) * F + f] = of_t[k * F + f];
    }
  }
}

/* New features of atoms from factors p (N, 6F): plain, factor, keep_v, keep_t, turn, square. `scale` multiplies all
 * products of features; `products` is 0 to leave out those that give vectors and tensors. */
void update(int64_t first, int64_t last, const real *restrict scales, const real *restrict p,
            const real *restrict vv, const real *restrict tt, const real *restrict x, const real *restrict v,
            const real *restrict t, real *restrict new_x, real *restrict new_v, real *restrict new_t) {
  const real scale = scales[0], products = scales[1];
  for (int64_t i = first; i < last; i++) {
    const real *restrict va = vv + i * 6 * F, *restrict ta = tt + i * 10 * F, *restrict q = p + i * 6 * F;
    const real *restrict vi = v + i * 3 * F, *restrict ti = t + i * 5 * F;
    real *restrict ov = new_v + i * 3 * F, *restrict ot = new_t + i * 5 * F;
#pragma omp simd
    for (int f = 0; f < F; f++) {
      READ3(a, va, 2 * F) READ3(b, va + F, 2 * F) READ5(c, ta, 2 * F) READ5(d, ta + F, 2 * F)
      READ3(u, vi, F) READ5(w, ti, F)
      const real keep_v = q[2 * F + f], keep_t = q[3 * F + f];
      const real turn = products * q[4 * F + f], square = products * q[5 * F + f];
      TIMES(o, d, a)
      DYAD(e, b, b)
      new_x[i * F + f] = x[i * F + f] + q[f] + scale * q[F + f] * (DOT3(a, b) + DOT5(c, d));
      WRITE3(ov, F, u0 + keep_v * b0 + turn * o0, u1 + keep_v * b1 + turn * o1, u2 + keep_v * b2 + turn * o2);
      WRITE5(ot, F, w0 + keep_t * d0 + square * e0, w1 + keep_t * d1 + square * e1, w2 + keep_t * d2 + square * e2,
             w3 + keep_t * d3 + square * e3, w4 + keep_t * d4 + square * e4);
    }
  }
}

void update_gradients(int64_t first, int64_t last, const real *restrict scales, const real *restrict p,
                      const real *restrict vv, const real *restrict tt, const real *restrict given_x,
                      const real *restrict given_v, const real *restrict given_t, real *restrict g_p,
                      real *restrict g_vv, real *restrict g_tt) {
  const real scale = scales[0], products = scales[1];
  for (int64_t i = first; i < last; i++) {
    const real *restrict va = vv + i * 6 * F, *restrict ta = tt + i * 10 * F, *restrict q = p + i * 6 * F;
    const real *restrict gv = given_v + i * 3 * F, *restrict gt = given_t + i * 5 * F;
    real *restrict ga = g_vv + i * 6 * F, *restrict gc = g_tt + i * 10 * F, *restrict gq = g_p + i * 6 * F;
#pragma omp simd
    for (int f = 0; f < F; f++) {
      READ3(a, va, 2 * F) READ3(b, va + F, 2 * F) READ5(c, ta, 2 * F) READ5(d, ta + F, 2 * F)
      READ3(u, gv, F) READ5(w, gt, F)
      const real g = given_x[i * F + f], factor = scale * g * q[F + f], keep_v = q[2 * F + f], keep_t = q[3 * F + f];
      const real turn = products * q[4 * F + f], square = 2 * products * q[5 * F + f];
      TIMES(o, d, a)
      TIMES(r, d, u)
      TIMES(s, w, b)
      DYAD(e, b, b)
      DYAD(h, u, a)
      gq[f] = g;
      gq[F + f] = scale * g * (DOT3(a, b) + DOT5(c, d));
      gq[2 * F + f] = DOT3(u, b);
      gq[3 * F + f] = DOT5(w, d);
      gq[4 * F + f] = products * DOT3(u, o);
      gq[5 * F + f] = products * DOT5(w, e);
      WRITE3(ga, 2 * F, factor * b0 + turn * r0, factor * b1 + turn * r1, factor * b2 + turn * r2);
      WRITE3(ga + F, 2 * F, factor * a0 + keep_v * u0 + square * s0, factor * a1 + keep_v * u1 + square * s1,
             factor * a2 + keep_v * u2 + square * s2);
      WRITE5(gc, 2 * F, factor * d0, factor * d1, factor * d2, factor * d3, factor * d4);
      WRITE5(gc + F, 2 * F, factor * c0 + keep_t * w0 + turn * h0, factor * c1 + keep_t * w1 + turn * h1,
             factor * c2 + keep_t * w2 + turn * h2, factor * c3 + keep_t * w3 + turn * h3,
             factor * c4 + keep_t * w4 + turn * h4);
    }
  }
}

/* Readout of crystals: displacements (N, 3) of zero mean, and means of tensors (S, 5) and of invariants (S, 3F).
 * `gates` (N, 2F) are added to one and multiply vectors and tensors, which `of_v` and `of_t` (F) project. */
void readout(int64_t first, int64_t last, const int64_t *restrict start, const real *restrict x,
             const real *restrict gates, const real *restrict v, const real *restrict t, const real *restrict of_v,
             const real *restrict of_t, real *restrict step, real *restrict tensor, real *restrict out) {
  for (int64_t n = first; n < last; n++) {
    const real share = 1 / (real)(start[n + 1] - start[n]);
    real *restrict o = out + n * 3 * F, mean[3] = {0, 0, 0}, sum[5] = {0, 0, 0, 0, 0};
    for (int f = 0; f < 3 * F; f++) o[f] = 0;
    for (int64_t i = start[n]; i < start[n + 1]; i++) {
      const real *restrict vi = v + i * 3 * F, *restrict ti = t + i * 5 * F, *restrict gate = gates + i * 2 * F;
      real s0 = 0, s1 = 0, s2 = 0, t0 = 0, t1 = 0, t2 = 0, t3 = 0, t4 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, t0, t1, t2, t3, t4)
      for (int f = 0; f < F; f++) {
        READ3(u, vi, F) READ5(w, ti, F)
        const real p = (1 + gate[f]) * of_v[f], q = (1 + gate[F + f]) * of_t[f];
        s0 += p * u0, s1 += p * u1, s2 += p * u2;
        t0 += q * w0, t1 += q * w1, t2 += q * w2, t3 += q * w3, t4 += q * w4;
        o[f] += share * x[i * F + f];
        o[F + f] += share * (ROOT(SQUARE3(u)) - EPS);
        o[2 * F + f] += share * (ROOT(SQUARE5(w)) - EPS);
      }
      step[3 * i] = s0, step[3 * i + 1] = s1, step[3 * i + 2] = s2;
      mean[0] += share * s0, mean[1] += share * s1, mean[2] += share * s2;
      sum[0] += t0, sum[1] += t1, sum[2] += t2, sum[3] += t3, sum[4] += t4;
    }
    for (int k = 0; k < 5; k++) tensor[5 * n + k] = share * sum[k];
    for (int64_t i = start[n]; i < start[n + 1]; i++)
      for (int k = 0; k < 3; k++) step[3 * i + k] -= mean[k];
  }
}

void readout_gradients(int64_t first, int64_t last, const int64_t *restrict start, const real *restrict gates,
                       const real *restrict v, const real *restrict t, const real *restrict of_v,
                       const real *restrict of_t, const real *restrict g_step, const real *restrict g_tensor,
                       const real *restrict g_out, real *restrict g_x, real *restrict g_gates, real *restrict g_v,
                       real *restrict g_t, real *restrict g_of_v, real *restrict g_of_t) {
  for (int64_t n = first; n < last; n++) {
    const real share = 1 / (real)(start[n + 1] - start[n]);
    const real *restrict g = g_out + n * 3 * F, *restrict k = g_tensor + 5 * n;
    const real k0 = share * k[0], k1 = share * k[1], k2 = share * k[2], k3 = share * k[3], k4 = share * k[4];
    real mean[3] = {0, 0, 0};
    for (int64_t i = start[n]; i < start[n + 1]; i++)
      for (int axis = 0; axis < 3; axis++) mean[axis] += share * g_step[3 * i + axis];
    for (int64_t i = start[n]; i < start[n + 1]; i++) {
      const real *restrict vi = v + i * 3 * F, *restrict ti = t + i * 5 * F, *restrict gate = gates + i * 2 * F;
      real *restrict gv = g_v + i * 3 * F, *restrict gt = g_t + i * 5 * F, *restrict gg = g_gates + i * 2 * F;
      const real s0 = g_step[3 * i] - mean[0], s1 = g_step[3 * i + 1] - mean[1], s2 = g_step[3 * i + 2] - mean[2];
#pragma omp simd
      for (int f = 0; f < F; f++) {
        READ3(u, vi, F) READ5(w, ti, F)
        const real along = DOT3(s, u), across = DOT5(k, w), gate_v = 1 + gate[f], gate_t = 1 + gate[F + f];
        const real p = gate_v * of_v[f], q = gate_t * of_t[f];
        const real r = share * g[F + f] / ROOT(SQUARE3(u)), l = share * g[2 * F + f] / ROOT(SQUARE5(w));
        g_x[i * F + f] = share * g[f];
        gg[f] = of_v[f] * along, gg[F + f] = of_t[f] * across;
        g_of_v[f] += gate_v * along, g_of_t[f] += gate_t * across;
        WRITE3(gv, F, p * s0 + r * u0, p * s1 + r * u1, p * s2 + r * u2);
        WRITE5(gt, F, q * k0 + l * w0, q * k1 + l * w1, q * k2 + l * w2, q * k3 + l * w3, q * k4 + l * w4);
      }
    }
  }
}
