/* Pairs of atoms within a distance in crystals of up to some hundred atoms: all pairs and images are measured. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

/* A neighbour of an atom, in the order of its keys: shell of distance, sender, cell shift. */
typedef struct {
  int64_t keys[5];
  double distance;
} Pair;

static int order(const void *one, const void *other) {
  const int64_t *a = ((const Pair *)one)->keys, *b = ((const Pair *)other)->keys;
  for (int k = 0; k < 5; k++)
    if (a[k] != b[k]) return a[k] < b[k] ? -1 : 1;
  return 0;
}

static void cross(const double *a, const double *b, double *out) {
  for (int k = 0; k < 3; k++) out[k] = a[(k + 1) % 3] * b[(k + 2) % 3] - a[(k + 2) % 3] * b[(k + 1) % 3];
}

static double dot(const double *a, const double *b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }

/* Pairs of `crystals` crystals, whose atoms are start[c] to start[c + 1], sorted by receiver and order().
 *
 * Lattice vectors are rows of `cells`. The shift of a pair applies to the positions as given. Returns the number of
 * pairs; if it exceeds `capacity`, not all are written. `wrapped` and `home` (N, 3) and `own`, for `capacity` pairs,
 * are working memory. */
int64_t neighbours(int64_t crystals, int64_t capacity, double reach, double shell, const int64_t *start,
                   const double *positions, const double *cells, const uint8_t *pbc, double *wrapped, double *home,
                   Pair *own, int64_t *receiver, int64_t *sender, double *shift, double *distance) {
  int64_t found = 0;
  for (int64_t c = 0; c < crystals; c++) {
    const double *cell = cells + 9 * c, *last = cell + 6, square = dot(last, last);
    double normals[9];
    int64_t images[3];
    for (int k = 0; k < 3; k++) {
      double *normal = normals + 3 * k;
      cross(cell + 3 * ((k + 1) % 3), cell + 3 * ((k + 2) % 3), normal);
      const double volume = dot(normal, cell + 3 * k);
      for (int axis = 0; axis < 3; axis++) normal[axis] /= volume;
      /* Wrapped atoms differ by less than a cell. */
      images[k] = pbc[3 * c + k] ? (int64_t)(reach * sqrt(dot(normal, normal))) + 1 : 0;
    }
    for (int64_t i = start[c]; i < start[c + 1]; i++) {
      for (int k = 0; k < 3; k++) home[3 * i + k] = pbc[3 * c + k] ? floor(dot(positions + 3 * i, normals + 3 * k)) : 0;
      for (int axis = 0; axis < 3; axis++)
        wrapped[3 * i + axis] = positions[3 * i + axis] - home[3 * i] * cell[axis] -
                                home[3 * i + 1] * cell[3 + axis] - home[3 * i + 2] * cell[6 + axis];
    }
    for (int64_t i = start[c]; i < start[c + 1]; i++) {
      int64_t near = 0;
      for (int64_t j = start[c]; j < start[c + 1]; j++)
        for (int64_t x = -images[0]; x <= images[0]; x++)
          for (int64_t y = -images[1]; y <= images[1]; y++) {
            double d[3];
            for (int axis = 0; axis < 3; axis++)
              d[axis] = wrapped[3 * j + axis] - wrapped[3 * i + axis] + x * cell[axis] + y * cell[3 + axis];
            /* |d + z c| <= reach for z between the roots of a quadratic equation; rounding may hide a border. */
            const double middle = -dot(d, last) / square;
            const double rest = (reach * reach - dot(d, d)) / square + middle * middle;
            if (rest < -1e-9) continue;
            const double half = sqrt(rest > 0 ? rest : 0) + 1e-4;
            int64_t low = (int64_t)ceil(middle - half), high = (int64_t)floor(middle + half);
            low = low < -images[2] ? -images[2] : low, high = high > images[2] ? images[2] : high;
            for (int64_t z = low; z <= high; z++) {
              const double e[3] = {d[0] + z * last[0], d[1] + z * last[1], d[2] + z * last[2]};
              const double length = sqrt(dot(e, e));
              if (length > reach || (i == j && x == 0 && y == 0 && z == 0)) continue;
              const double *a = home + 3 * i, *b = home + 3 * j;
              const int64_t u = x + (int64_t)(a[0] - b[0]), v = y + (int64_t)(a[1] - b[1]);
              const int64_t w = z + (int64_t)(a[2] - b[2]);
              if (near < capacity) own[near] = (Pair){{llrint(length / shell), j, u, v, w}, length};
              near++;
            }
          }
      if (found + near <= capacity) {
        qsort(own, (size_t)near, sizeof(Pair), order);
        for (int64_t k = 0; k < near; k++) {
          receiver[found + k] = i, sender[found + k] = own[k].keys[1], distance[found + k] = own[k].distance;
          for (int axis = 0; axis < 3; axis++) shift[3 * (found + k) + axis] = (double)own[k].keys[2 + axis];
        }
      }
      found += near;
    }
  }
  return found;
}
