// SPDX-License-Identifier: Apache-2.0

#include "textflag.h"

// MD5 (RFC 1321) of two messages. a, b, c and d are the state's words, t is free, and m is
// where the block is. Whatever needs b comes last in each step: b is what the step before has
// just made, and the chain of these is what one message alone waits for.

#define ADDWORD(a, m, word, k) \
	ADDL (4*word)(m), a; \
	ADDL $k, a

#define TURN(a, b, t, shift) \
	ADDL t, a; \
	ROLL $shift, a; \
	ADDL b, a

// F = d ^ (b & (c ^ d))
#define STEP1(a, b, c, d, t, m, word, k, shift) \
	ADDWORD(a, m, word, k); \
	MOVL c, t; \
	XORL d, t; \
	ANDL b, t; \
	XORL d, t; \
	TURN(a, b, t, shift)

// G = (c & ~d) + (b & d): they have no bit in common
#define STEP2(a, b, c, d, t, m, word, k, shift) \
	ADDWORD(a, m, word, k); \
	MOVL d, t; \
	NOTL t; \
	ANDL c, t; \
	ADDL t, a; \
	MOVL d, t; \
	ANDL b, t; \
	TURN(a, b, t, shift)

// H = b ^ (c ^ d)
#define STEP3(a, b, c, d, t, m, word, k, shift) \
	ADDWORD(a, m, word, k); \
	MOVL c, t; \
	XORL d, t; \
	XORL b, t; \
	TURN(a, b, t, shift)

// I = c ^ (b | ~d)
#define STEP4(a, b, c, d, t, m, word, k, shift) \
	ADDWORD(a, m, word, k); \
	MOVL d, t; \
	NOTL t; \
	ORL b, t; \
	XORL c, t; \
	TURN(a, b, t, shift)

#define BOTH1(a, b, c, d, e, f, u, v, word, k, shift) \
	STEP1(a, b, c, d, R12, SI, word, k, shift); \
	STEP1(e, f, u, v, R13, DI, word, k, shift)

#define BOTH2(a, b, c, d, e, f, u, v, word, k, shift) \
	STEP2(a, b, c, d, R12, SI, word, k, shift); \
	STEP2(e, f, u, v, R13, DI, word, k, shift)

#define BOTH3(a, b, c, d, e, f, u, v, word, k, shift) \
	STEP3(a, b, c, d, R12, SI, word, k, shift); \
	STEP3(e, f, u, v, R13, DI, word, k, shift)

#define BOTH4(a, b, c, d, e, f, u, v, word, k, shift) \
	STEP4(a, b, c, d, R12, SI, word, k, shift); \
	STEP4(e, f, u, v, R13, DI, word, k, shift)

// func blocks(s, t *[4]uint32, p, q *byte, n int)
TEXT ·blocks(SB), NOSPLIT, $32-40
	MOVQ s+0(FP), R12
	MOVQ t+8(FP), R13
	MOVQ p+16(FP), SI
	MOVQ q+24(FP), DI
	MOVQ n+32(FP), R15
	SHLQ $6, R15
	ADDQ SI, R15
	MOVL 0(R12), AX
	MOVL 4(R12), BX
	MOVL 8(R12), CX
	MOVL 12(R12), DX
	MOVL 0(R13), R8
	MOVL 4(R13), R9
	MOVL 8(R13), R10
	MOVL 12(R13), R11

loop:
	CMPQ SI, R15
	JAE  done
	MOVL AX, w0-32(SP)
	MOVL BX, w1-28(SP)
	MOVL CX, w2-24(SP)
	MOVL DX, w3-20(SP)
	MOVL R8, w4-16(SP)
	MOVL R9, w5-12(SP)
	MOVL R10, w6-8(SP)
	MOVL R11, w7-4(SP)

	BOTH1(AX, BX, CX, DX, R8, R9, R10, R11, 0, 0xd76aa478, 7)
	BOTH1(DX, AX, BX, CX, R11, R8, R9, R10, 1, 0xe8c7b756, 12)
	BOTH1(CX, DX, AX, BX, R10, R11, R8, R9, 2, 0x242070db, 17)
	BOTH1(BX, CX, DX, AX, R9, R10, R11, R8, 3, 0xc1bdceee, 22)
	BOTH1(AX, BX, CX, DX, R8, R9, R10, R11, 4, 0xf57c0faf, 7)
	BOTH1(DX, AX, BX, CX, R11, R8, R9, R10, 5, 0x4787c62a, 12)
	BOTH1(CX, DX, AX, BX, R10, R11, R8, R9, 6, 0xa8304613, 17)
	BOTH1(BX, CX, DX, AX, R9, R10, R11, R8, 7, 0xfd469501, 22)
	BOTH1(AX, BX, CX, DX, R8, R9, R10, R11, 8, 0x698098d8, 7)
	BOTH1(DX, AX, BX, CX, R11, R8, R9, R10, 9, 0x8b44f7af, 12)
	BOTH1(CX, DX, AX, BX, R10, R11, R8, R9, 10, 0xffff5bb1, 17)
	BOTH1(BX, CX, DX, AX, R9, R10, R11, R8, 11, 0x895cd7be, 22)
	BOTH1(AX, BX, CX, DX, R8, R9, R10, R11, 12, 0x6b901122, 7)
	BOTH1(DX, AX, BX, CX, R11, R8, R9, R10, 13, 0xfd987193, 12)
	BOTH1(CX, DX, AX, BX, R10, R11, R8, R9, 14, 0xa679438e, 17)
	BOTH1(BX, CX, DX, AX, R9, R10, R11, R8, 15, 0x49b40821, 22)

	BOTH2(AX, BX, CX, DX, R8, R9, R10, R11, 1, 0xf61e2562, 5)
	BOTH2(DX, AX, BX, CX, R11, R8, R9, R10, 6, 0xc040b340, 9)
	BOTH2(CX, DX, AX, BX, R10, R11, R8, R9, 11, 0x265e5a51, 14)
	BOTH2(BX, CX, DX, AX, R9, R10, R11, R8, 0, 0xe9b6c7aa, 20)
	BOTH2(AX, BX, CX, DX, R8, R9, R10, R11, 5, 0xd62f105d, 5)
	BOTH2(DX, AX, BX, CX, R11, R8, R9, R10, 10, 0x02441453, 9)
	BOTH2(CX, DX, AX, BX, R10, R11, R8, R9, 15, 0xd8a1e681, 14)
	BOTH2(BX, CX, DX, AX, R9, R10, R11, R8, 4, 0xe7d3fbc8, 20)
	BOTH2(AX, BX, CX, DX, R8, R9, R10, R11, 9, 0x21e1cde6, 5)
	BOTH2(DX, AX, BX, CX, R11, R8, R9, R10, 14, 0xc33707d6, 9)
	BOTH2(CX, DX, AX, BX, R10, R11, R8, R9, 3, 0xf4d50d87, 14)
	BOTH2(BX, CX, DX, AX, R9, R10, R11, R8, 8, 0x455a14ed, 20)
	BOTH2(AX, BX, CX, DX, R8, R9, R10, R11, 13, 0xa9e3e905, 5)
	BOTH2(DX, AX, BX, CX, R11, R8, R9, R10, 2, 0xfcefa3f8, 9)
	BOTH2(CX, DX, AX, BX, R10, R11, R8, R9, 7, 0x676f02d9, 14)
	BOTH2(BX, CX, DX, AX, R9, R10, R11, R8, 12, 0x8d2a4c8a, 20)

	BOTH3(AX, BX, CX, DX, R8, R9, R10, R11, 5, 0xfffa3942, 4)
	BOTH3(DX, AX, BX, CX, R11, R8, R9, R10, 8, 0x8771f681, 11)
	BOTH3(CX, DX, AX, BX, R10, R11, R8, R9, 11, 0x6d9d6122, 16)
	BOTH3(BX, CX, DX, AX, R9, R10, R11, R8, 14, 0xfde5380c, 23)
	BOTH3(AX, BX, CX, DX, R8, R9, R10, R11, 1, 0xa4beea44, 4)
	BOTH3(DX, AX, BX, CX, R11, R8, R9, R10, 4, 0x4bdecfa9, 11)
	BOTH3(CX, DX, AX, BX, R10, R11, R8, R9, 7, 0xf6bb4b60, 16)
	BOTH3(BX, CX, DX, AX, R9, R10, R11, R8, 10, 0xbebfbc70, 23)
	BOTH3(AX, BX, CX, DX, R8, R9, R10, R11, 13, 0x289b7ec6, 4)
	BOTH3(DX, AX, BX, CX, R11, R8, R9, R10, 0, 0xeaa127fa, 11)
	BOTH3(CX, DX, AX, BX, R10, R11, R8, R9, 3, 0xd4ef3085, 16)
	BOTH3(BX, CX, DX, AX, R9, R10, R11, R8, 6, 0x04881d05, 23)
	BOTH3(AX, BX, CX, DX, R8, R9, R10, R11, 9, 0xd9d4d039, 4)
	BOTH3(DX, AX, BX, CX, R11, R8, R9, R10, 12, 0xe6db99e5, 11)
	BOTH3(CX, DX, AX, BX, R10, R11, R8, R9, 15, 0x1fa27cf8, 16)
	BOTH3(BX, CX, DX, AX, R9, R10, R11, R8, 2, 0xc4ac5665, 23)

	BOTH4(AX, BX, CX, DX, R8, R9, R10, R11, 0, 0xf4292244, 6)
	BOTH4(DX, AX, BX, CX, R11, R8, R9, R10, 7, 0x432aff97, 10)
	BOTH4(CX, DX, AX, BX, R10, R11, R8, R9, 14, 0xab9423a7, 15)
	BOTH4(BX, CX, DX, AX, R9, R10, R11, R8, 5, 0xfc93a039, 21)
	BOTH4(AX, BX, CX, DX, R8, R9, R10, R11, 12, 0x655b59c3, 6)
	BOTH4(DX, AX, BX, CX, R11, R8, R9, R10, 3, 0x8f0ccc92, 10)
	BOTH4(CX, DX, AX, BX, R10, R11, R8, R9, 10, 0xffeff47d, 15)
	BOTH4(BX, CX, DX, AX, R9, R10, R11, R8, 1, 0x85845dd1, 21)
	BOTH4(AX, BX, CX, DX, R8, R9, R10, R11, 8, 0x6fa87e4f, 6)
	BOTH4(DX, AX, BX, CX, R11, R8, R9, R10, 15, 0xfe2ce6e0, 10)
	BOTH4(CX, DX, AX, BX, R10, R11, R8, R9, 6, 0xa3014314, 15)
	BOTH4(BX, CX, DX, AX, R9, R10, R11, R8, 13, 0x4e0811a1, 21)
	BOTH4(AX, BX, CX, DX, R8, R9, R10, R11, 4, 0xf7537e82, 6)
	BOTH4(DX, AX, BX, CX, R11, R8, R9, R10, 11, 0xbd3af235, 10)
	BOTH4(CX, DX, AX, BX, R10, R11, R8, R9, 2, 0x2ad7d2bb, 15)
	BOTH4(BX, CX, DX, AX, R9, R10, R11, R8, 9, 0xeb86d391, 21)

	ADDL w0-32(SP), AX
	ADDL w1-28(SP), BX
	ADDL w2-24(SP), CX
	ADDL w3-20(SP), DX
	ADDL w4-16(SP), R8
	ADDL w5-12(SP), R9
	ADDL w6-8(SP), R10
	ADDL w7-4(SP), R11
	ADDQ $64, SI
	ADDQ $64, DI
	JMP  loop

done:
	MOVQ s+0(FP), R12
	MOVQ t+8(FP), R13
	MOVL AX, 0(R12)
	MOVL BX, 4(R12)
	MOVL CX, 8(R12)
	MOVL DX, 12(R12)
	MOVL R8, 0(R13)
	MOVL R9, 4(R13)
	MOVL R10, 8(R13)
	MOVL R11, 12(R13)
	RET
