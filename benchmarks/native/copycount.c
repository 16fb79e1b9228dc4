/* Counts what a process copies from memory to memory: preloaded, it takes the place of memcpy and its kin.
 *
 * Copies of less than LEAST bytes are not counted: interpreters make them all the time, and they are not what
 * is meant. Nor are those that the compiler did inline, or that the kernel does. How fast it copies does not matter.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { LEAST = 256 };

static volatile uint64_t copied;

uint64_t copycount_read(void) { return copied; }

/* Not to be recognised as memmove by the compiler, which would call it. */
__attribute__((optimize("no-tree-loop-distribute-patterns")))
static void *move(void *to, const void *from, size_t count) {
    volatile unsigned char *d = to;
    const volatile unsigned char *s = from;
    if (count >= LEAST)
        __atomic_fetch_add(&copied, count, __ATOMIC_RELAXED);
    uintptr_t distance = (uintptr_t)to - (uintptr_t)from;
    if (distance >= count) { /* forwards is safe */
        while (count && ((uintptr_t)d & 7)) {
            *d++ = *s++;
            count--;
        }
        if (!((uintptr_t)s & 7))
            for (; count >= 8; count -= 8, d += 8, s += 8)
                *(volatile uint64_t *)d = *(const volatile uint64_t *)s;
        while (count--)
            *d++ = *s++;
    } else {
        while (count--)
            d[count] = s[count];
    }
    return to;
}

void *memcpy(void *to, const void *from, size_t count) { return move(to, from, count); }
void *memmove(void *to, const void *from, size_t count) { return move(to, from, count); }
void *mempcpy(void *to, const void *from, size_t count) { return (char *)move(to, from, count) + count; }
void *__memcpy_chk(void *to, const void *from, size_t count, size_t room) {
    (void)room;
    return move(to, from, count);
}
void *__memmove_chk(void *to, const void *from, size_t count, size_t room) {
    (void)room;
    return move(to, from, count);
}
