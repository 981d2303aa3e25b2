#pragma once
struct tinyblasContext;
