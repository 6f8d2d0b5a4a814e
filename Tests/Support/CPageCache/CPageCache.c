#include "CPageCache.h"
