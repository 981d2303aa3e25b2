/* Empty: the loader expects the file. */
#pragma once
