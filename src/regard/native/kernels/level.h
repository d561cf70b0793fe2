// All that is compiled for one level of instructions; no guard, as it is included once for each.

#include "vectors.h"
#include "rows.h"
#include "products.h"
#include "best.h"
#include "feed_forward.h"
#include "tiles.h"
#include "attention.h"
#include "packing.h"
