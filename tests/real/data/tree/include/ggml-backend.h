#pragma once
#include "ggml.h"
