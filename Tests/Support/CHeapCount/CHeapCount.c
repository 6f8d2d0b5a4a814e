#include "CHeapCount.h"
