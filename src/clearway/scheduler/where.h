/* Where was the step interrupted?
 *
 * The addresses of the interrupted stack, from our Python-level signal handler up to the step's base, are
 * told apart by the function they lie in: between two bytecodes they look as calibration has learnt; in a
 * blocking call the call's own entry is among them; and code of a module that is not known to be harmless is
 * seen by its module. An unwinding costs 60,000 instructions, so this is only done to steps that overran, and a
 * stack that was unwound before is recognised by its return addresses (cw_recall).
 *
 * Functions are known by where their unwind information begins, which works without symbols (libgcc's
 * _Unwind_FindEnclosingFunction).
 */
#ifndef CLEARWAY_SCHEDULER_WHERE_H
#define CLEARWAY_SCHEDULER_WHERE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <Python.h>
#include <dlfcn.h>
#include <link.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unwind.h>

#define CW_FRAMES_MAX 64

typedef struct {
    uintptr_t ip[CW_FRAMES_MAX];
    uintptr_t cfa[CW_FRAMES_MAX];           /* of the frame that returns to ip */
    int n, too_deep;
    uintptr_t inner, base;                  /* frames at or below `inner` and above `base` do not count */
} cw_trace;

/* Where our Python-level signal handler was entered; what lies below it on the stack is our own doing. */
static uintptr_t cw_handler_frame;
#define cw_frame_here() ((uintptr_t)__builtin_frame_address(0))

static _Unwind_Reason_Code cw_on_frame(struct _Unwind_Context *context, void *arg) {
    cw_trace *t = arg;
    uintptr_t ip, cfa = _Unwind_GetCFA(context);
    if (t->base && cfa > t->base)
        return _URC_END_OF_STACK;
    if (cfa <= t->inner)
        return _URC_NO_REASON;
    ip = _Unwind_GetIP(context);
    if (ip == 0)
        return _URC_END_OF_STACK;
    if (t->n == CW_FRAMES_MAX) {
        t->too_deep = 1;
        return _URC_END_OF_STACK;
    }
    t->cfa[t->n] = cfa;
    t->ip[t->n++] = ip;
    return _URC_NO_REASON;
}

static void cw_unwind(cw_trace *t, uintptr_t inner, uintptr_t base) {
    t->n = 0;
    t->inner = inner;
    t->too_deep = 0;
    t->base = base;
    _Unwind_Backtrace(cw_on_frame, t);
}

static inline uintptr_t cw_function_of(uintptr_t ip) {
    return (uintptr_t)_Unwind_FindEnclosingFunction((void *)(ip - 1));
}

/* Modules by address.  A class tells how the rules see code of the module. */
enum { CW_FOREIGN = 0, CW_OURS = 1, CW_PYTHON = 2, CW_LIBC = 3, CW_ALLOWED = 4 };

typedef struct { uintptr_t lo, hi; int cls; char name[64]; } cw_module;
static cw_module *cw_modules;
static int cw_module_count, cw_module_room;
static unsigned long long cw_module_adds;

static const char *cw_allowed_names[64];    /* file-name stems, set once from Python */
static int cw_allowed_count;

static int cw_add_module(struct dl_phdr_info *info, size_t size, void *arg) {
    uintptr_t self = (uintptr_t)&cw_add_module, python = (uintptr_t)&PyErr_CheckSignals;
    uintptr_t lo = UINTPTR_MAX, hi = 0;
    const char *path = info->dlpi_name ? info->dlpi_name : "", *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    cw_module *m;
    (void)arg; (void)size;
    cw_module_adds = info->dlpi_adds;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        if (p->p_type == PT_LOAD && (p->p_flags & PF_X)) {
            uintptr_t a = info->dlpi_addr + p->p_vaddr, b = a + p->p_memsz;
            if (a < lo) lo = a;
            if (b > hi) hi = b;
        }
    }
    if (lo >= hi)
        return 0;
    if (cw_module_count == cw_module_room) {
        int room = cw_module_room ? 2 * cw_module_room : 128;
        cw_module *grown = realloc(cw_modules, room * sizeof *grown);
        if (!grown)
            return 1;
        cw_modules = grown;
        cw_module_room = room;
    }
    m = &cw_modules[cw_module_count++];
    m->lo = lo;
    m->hi = hi;
    m->cls = CW_FOREIGN;
    snprintf(m->name, sizeof m->name, "%s", name);
    if ((python >= lo && python < hi) || *path == 0)
        m->cls = CW_PYTHON;                 /* libpython, or the executable it is linked into */
    else if ((self >= lo && self < hi) || strstr(path, "/clearway/"))
        m->cls = CW_OURS;
    else if (!strncmp(name, "libc.so", 7) || !strncmp(name, "libc-", 5) || !strncmp(name, "ld-", 3) ||
             !strncmp(name, "libpthread", 10) || !strncmp(name, "libgcc_s", 8) || !strncmp(name, "libm.so", 7) ||
             !strncmp(name, "libm-", 5) || strstr(name, "musl"))
        m->cls = CW_LIBC;
    else
        for (int i = 0; i < cw_allowed_count; i++) {
            size_t n = strlen(cw_allowed_names[i]);
            if (!strncmp(name, cw_allowed_names[i], n) && name[n] == '.')
                m->cls = CW_ALLOWED;
        }
    return 0;
}

static int cw_peek_adds(struct dl_phdr_info *info, size_t size, void *arg) {
    (void)size;
    *(unsigned long long *)arg = info->dlpi_adds + info->dlpi_subs;
    return 1;
}

static unsigned long long cw_modules_version;

static void cw_load_modules(void) {
    unsigned long long version = 0;
    dl_iterate_phdr(cw_peek_adds, &version);
    if (version == cw_modules_version && cw_module_count)
        return;
    cw_module_count = 0;
    dl_iterate_phdr(cw_add_module, NULL);
    cw_modules_version = version;
}

static const cw_module *cw_module_of(uintptr_t ip) {
    for (int i = 0; i < cw_module_count; i++)
        if (ip >= cw_modules[i].lo && ip < cw_modules[i].hi)
            return &cw_modules[i];
    return NULL;
}

/* Sets of function entries: the waits that may be suspended, the call helpers that may stand between
 * such a wait and the eval loop, the doors to finalisers, and calls beneath which nothing may be
 * suspended (buffered I/O objects refuse a second step with "reentrant call"). FRAGILE are containers that compare
 * keys while they are half changed, and SAFE not entries but the return addresses of calls of theirs that may be
 * suspended all the same: see fragile.py. */
enum { CW_SET_WAIT, CW_SET_HELPER, CW_SET_FINALISER, CW_SET_DENIED, CW_SET_FRAGILE, CW_SET_SAFE, CW_SETS };
#define CW_SET_MAX 160
static uintptr_t cw_set[CW_SETS][CW_SET_MAX];
static int cw_set_count[CW_SETS];

static int cw_in_set(int set, uintptr_t entry) {
    for (int i = 0; i < cw_set_count[set]; i++)
        if (cw_set[set][i] == entry)
            return 1;
    return 0;
}

static int cw_add_to_set(int set, uintptr_t entry) {
    if (entry == 0 || cw_in_set(set, entry))
        return 0;
    if (cw_set_count[set] == CW_SET_MAX)
        return -1;
    cw_set[set][cw_set_count[set]++] = entry;
    return 0;
}

/* The eval loop: the function, and its .cold part as far as calibration met it. */
static uintptr_t cw_eval[4];
static int cw_eval_count;

static int cw_is_eval(uintptr_t entry) {
    for (int i = 0; i < cw_eval_count; i++)
        if (cw_eval[i] == entry)
            return 1;
    return 0;
}

/* What stands between our handler and the eval loop at a bytecode boundary, learnt by calibration. */
#define CW_SIGNATURES 8
#define CW_SIGNATURE_MAX 12
static uintptr_t cw_signature[CW_SIGNATURES][CW_SIGNATURE_MAX];
static int cw_signature_length[CW_SIGNATURES], cw_signature_count;

enum {
    CW_AT_BOUNDARY = 0,  /* between two bytecodes */
    CW_AT_WAIT = 1,      /* inside a blocking call that may be suspended */
    CW_AT_C_CALL = 2,    /* inside another C call */
    CW_AT_FOREIGN = 3,   /* native code of somebody else is on the stack */
    CW_AT_DEEP = 4,      /* too many native frames to judge */
    CW_AT_FINALISER = 5,
    CW_AT_UNKNOWN = 6    /* no eval loop found */
};

/* Index of the first frame that is not ours (the caller of our handler). */
static int cw_skip_ours(const cw_trace *t) {
    int i = 0;
    for (; i < t->n; i++) {
        const cw_module *m = cw_module_of(t->ip[i] - 1);
        if (m == NULL || m->cls != CW_OURS)
            break;
    }
    return i;
}

static int cw_at_boundary(const cw_trace *t, int from, int eval) {
    for (int s = 0; s < cw_signature_count; s++)
        if (cw_signature_length[s] == eval - from &&
            !memcmp(cw_signature[s], &t->ip[from], (eval - from) * sizeof(uintptr_t)))
            return 1;
    return 0;
}

/* Stacks that have been judged, and the verdicts.
 *
 * A stack is known again when our handler's frame lies where it lay and every return address stands where it
 * stood. That is proof: the frame of the handler is given, so its return address is where it was found; the call
 * site that this names has the frame size that it had, so the next return address is where it was found; and so
 * on to the base. (A frame of variable size could only deceive by an old copy of the same return address at the
 * same place.) Where return addresses do not lie next to the CFA, as on aarch64, nothing is remembered. */
#define CW_KNOWN_STACKS 16
typedef struct {
    uintptr_t ip[CW_FRAMES_MAX];
    uintptr_t *slot[CW_FRAMES_MAX];
    uintptr_t inner, base;                  /* inner = 0: free */
    int n, where;
    char detail[64];
} cw_stack;
static cw_stack cw_known[CW_KNOWN_STACKS];
static int cw_known_next, cw_known_set_sizes;
static unsigned long long cw_known_version;

/* What a verdict rests on besides the stack: the modules, and what has been learnt. */
static void cw_check_known(void) {
    int sizes = cw_signature_count + cw_eval_count;
    for (int i = 0; i < CW_SETS; i++)
        sizes += cw_set_count[i];           /* sets only grow */
    if (sizes == cw_known_set_sizes && cw_known_version == cw_modules_version)
        return;
    for (int i = 0; i < CW_KNOWN_STACKS; i++)
        cw_known[i].inner = 0;
    cw_known_set_sizes = sizes;
    cw_known_version = cw_modules_version;
}

static const cw_stack *cw_recall(uintptr_t inner, uintptr_t base) {
    for (int i = 0; i < CW_KNOWN_STACKS; i++) {
        const cw_stack *s = &cw_known[i];
        int k = 0;
        if (s->inner != inner || s->base != base)
            continue;
        while (k < s->n && *s->slot[k] == s->ip[k])
            k++;
        if (k == s->n)
            return s;
    }
    return NULL;
}

static void cw_remember(const cw_trace *t, int where, const char *detail) {
    cw_stack *s = &cw_known[cw_known_next];
    if (t->too_deep || t->n == 0 || strlen(detail) >= sizeof s->detail)
        return;
    s->inner = 0;
    for (int i = 0; i < t->n; i++) {
        s->ip[i] = t->ip[i];
        s->slot[i] = (uintptr_t *)t->cfa[i] - 1;
        if (*s->slot[i] != s->ip[i])
            return;
    }
    s->n = t->n;
    s->where = where;
    strcpy(s->detail, detail);
    s->base = t->base;
    s->inner = t->inner;
    cw_known_next = (cw_known_next + 1) % CW_KNOWN_STACKS;
}

static int cw_judge(const cw_trace *t, char *detail, size_t room);

/* Classify the interrupted point.  `detail` receives the name of the foreign module, if any. */
static int cw_classify(uintptr_t base, char *detail, size_t room, int *depth) {
    cw_trace t;
    const cw_stack *known;
    int where;
    detail[0] = 0;
    cw_load_modules();
    cw_check_known();
    known = cw_recall(cw_handler_frame, base);
    if (known) {
        *depth = known->n;
        snprintf(detail, room, "%s", known->detail);
        return known->where;
    }
    cw_unwind(&t, cw_handler_frame, base);
    *depth = t.n;
    where = cw_judge(&t, detail, room);
    cw_remember(&t, where, detail);
    return where;
}

static int cw_judge(const cw_trace *t, char *detail, size_t room) {
    int from, eval, where = CW_AT_C_CALL;
    from = cw_skip_ours(t);
    for (eval = from; eval < t->n; eval++)
        if (cw_is_eval(cw_function_of(t->ip[eval])))
            break;
    if (eval == t->n)
        return CW_AT_UNKNOWN;
    if (cw_at_boundary(t, from, eval)) {
        where = CW_AT_BOUNDARY;
    } else {
        for (int i = from; i < eval; i++)
            if (cw_in_set(CW_SET_WAIT, cw_function_of(t->ip[i]))) {
                where = CW_AT_WAIT;
                for (int k = i + 1; k < eval; k++) {
                    /* Our own locks are compiled and wait on behalf of their caller. */
                    const cw_module *m = cw_module_of(t->ip[k] - 1);
                    uintptr_t entry = cw_function_of(t->ip[k]);
                    if ((m == NULL || m->cls != CW_OURS) && !cw_in_set(CW_SET_HELPER, entry)
                        && !cw_in_set(CW_SET_WAIT, entry))
                        where = CW_AT_C_CALL;
                }
                break;
            }
    }
    if (where == CW_AT_C_CALL)
        return where;
    for (int i = from; i < t->n; i++) {
        const cw_module *m = cw_module_of(t->ip[i] - 1);
        if (m == NULL || m->cls == CW_FOREIGN) {
            snprintf(detail, room, "%s", m ? m->name : "unknown code");
            return CW_AT_FOREIGN;
        }
        if (m->cls == CW_PYTHON && i > eval) {
            uintptr_t entry = cw_function_of(t->ip[i]);
            if (cw_in_set(CW_SET_FINALISER, entry))
                return CW_AT_FINALISER;
            if (cw_in_set(CW_SET_DENIED, entry)) {
                snprintf(detail, room, "_io");
                return CW_AT_FOREIGN;
            }
            if (cw_in_set(CW_SET_FRAGILE, entry) && !cw_in_set(CW_SET_SAFE, t->ip[i])) {
                snprintf(detail, room, "a container, comparing keys");
                return CW_AT_FOREIGN;
            }
        }
    }
    if (t->too_deep)
        return CW_AT_DEEP;
    return where;
}

/* Entries of the C functions behind Python callables. */
static uintptr_t cw_entry_of(PyObject *callable, uintptr_t *helper) {
    *helper = 0;
    if (PyCFunction_Check(callable)) {
        *helper = (uintptr_t)((PyCFunctionObject *)callable)->vectorcall;
        return (uintptr_t)PyCFunction_GetFunction(callable);
    }
    if (Py_IS_TYPE(callable, &PyMethodDescr_Type)) {
        PyMethodDescrObject *descr = (PyMethodDescrObject *)callable;
        PyObject *bound = PyCMethod_New(descr->d_method, Py_None, NULL,
            descr->d_method->ml_flags & METH_METHOD ? descr->d_common.d_type : NULL);
        if (bound == NULL)
            PyErr_Clear();
        else {                              /* called by way of a bound method: another helper */
            cw_add_to_set(CW_SET_HELPER, (uintptr_t)((PyCFunctionObject *)bound)->vectorcall);
            Py_DECREF(bound);
        }
        *helper = (uintptr_t)descr->vectorcall;
        return (uintptr_t)((PyMethodDescrObject *)callable)->d_method->ml_meth;
    }
    return 0;
}

static void cw_add_exported(int set, const char *name) {
    void *p = dlsym(RTLD_DEFAULT, name);
    if (p)
        cw_add_to_set(set, (uintptr_t)p);
}

static void cw_seed_sets(PyObject *type_with_del) {
    static const char *const helpers[] = {
        "PyObject_Vectorcall", "_PyObject_Vectorcall", "PyObject_Call", "_PyObject_Call", "PyVectorcall_Call",
        "_PyVectorcall_Call", "PyObject_CallNoArgs", "PyObject_CallOneArg", "_PyObject_MakeTpCall",
        "PyObject_CallObject", "PyCFunction_Call", "PyObject_VectorcallMethod", "PyObject_VectorcallDict",
        "PyObject_CallMethodObjArgs", "PyObject_CallFunctionObjArgs", NULL};
    static const char *const finalisers[] = {
        "PyObject_ClearWeakRefs", "PyObject_CallFinalizer", "PyObject_CallFinalizerFromDealloc",
        "PyGC_Collect", NULL};
    for (int i = 0; helpers[i]; i++)
        cw_add_exported(CW_SET_HELPER, helpers[i]);
    cw_add_to_set(CW_SET_HELPER, (uintptr_t)PyVectorcall_Call);
    cw_add_to_set(CW_SET_HELPER, (uintptr_t)PyCFunction_Type.tp_call);
    cw_add_to_set(CW_SET_HELPER, (uintptr_t)PyMethodDescr_Type.tp_call);
    {
        PyObject *method = PyMethod_New(type_with_del, Py_None);
        if (method == NULL)
            PyErr_Clear();
        else {
            cw_add_to_set(CW_SET_HELPER, (uintptr_t)((PyMethodObject *)method)->vectorcall);
            Py_DECREF(method);
        }
    }
    for (int i = 0; finalisers[i]; i++)
        cw_add_exported(CW_SET_FINALISER, finalisers[i]);
    cw_add_to_set(CW_SET_FINALISER, (uintptr_t)((PyTypeObject *)type_with_del)->tp_finalize);
    cw_add_to_set(CW_SET_FINALISER, (uintptr_t)((PyTypeObject *)type_with_del)->tp_dealloc);
    cw_add_to_set(CW_SET_FINALISER, (uintptr_t)PyGen_Type.tp_finalize);
    cw_add_to_set(CW_SET_FINALISER, (uintptr_t)PyAsyncGen_Type.tp_finalize);
    cw_eval_count = 0;
    {
        void *p = dlsym(RTLD_DEFAULT, "_PyEval_EvalFrameDefault");
        if (p)
            cw_eval[cw_eval_count++] = (uintptr_t)p;
    }
}

/* Calibration, both halves called from C at the same depth below `base`:
 *   direct: a Python function calls into us      base > ... > eval > call helpers > us
 *   tripped: the same function is interrupted     base > ... > eval > pending > check > us
 * Counted from the outside both have the eval loop at the same place. */
static int cw_calibrate_outer = -1;

static int cw_calibrate_direct(uintptr_t base) {
    cw_trace t;
    cw_load_modules();
    cw_unwind(&t, 0, base);
    for (int i = cw_skip_ours(&t); i < t.n; i++)
        if (cw_is_eval(cw_function_of(t.ip[i]))) {
            cw_calibrate_outer = t.n - i;
            return 0;
        }
    return -1;
}

static int cw_calibrate_tripped(uintptr_t base) {
    cw_trace t;
    int from, eval;
    uintptr_t entry;
    if (cw_calibrate_outer < 0)
        return -1;
    cw_unwind(&t, cw_handler_frame, base);
    from = cw_skip_ours(&t);
    eval = t.n - cw_calibrate_outer;
    if (t.too_deep || eval <= from || eval - from > CW_SIGNATURE_MAX)
        return -1;
    entry = cw_function_of(t.ip[eval]);
    if (!cw_is_eval(entry)) {               /* the .cold part of it */
        if (cw_eval_count == 4)
            return -1;
        cw_eval[cw_eval_count++] = entry;
    }
    if (cw_at_boundary(&t, from, eval))
        return 0;
    if (cw_signature_count == CW_SIGNATURES)
        return -1;
    memcpy(cw_signature[cw_signature_count], &t.ip[from], (eval - from) * sizeof(uintptr_t));
    cw_signature_length[cw_signature_count++] = eval - from;
    return 0;
}

/* Whatever of the interpreter stands between the eval loop and a C function that was called straight from it
 * helps to call.  For helpers that nobody exports: a traced frame of 3.11 calls through one. */
static void cw_learn_helpers(uintptr_t base) {
    cw_trace t;
    cw_load_modules();
    cw_unwind(&t, 0, base);
    for (int i = cw_skip_ours(&t); i < t.n && !cw_is_eval(cw_function_of(t.ip[i])); i++) {
        const cw_module *m = cw_module_of(t.ip[i] - 1);
        if (m != NULL && m->cls == CW_PYTHON)
            cw_add_to_set(CW_SET_HELPER, cw_function_of(t.ip[i]));
    }
}

/* Learn where a wait is found when it was entered straight from the eval loop: the outermost frame that
 * is no call helper.  Argument parsers often end in a jump to the function that does the work, and then
 * the entry that Python knows is not on the stack.  In an extension module, what that calls of the same
 * module counts, too: another method may jump to it. */
static int cw_learn_wait(uintptr_t base) {
    cw_trace t;
    int from, eval;
    cw_unwind(&t, cw_handler_frame, base);
    from = cw_skip_ours(&t);
    for (eval = from; eval < t.n; eval++)
        if (cw_is_eval(cw_function_of(t.ip[eval])))
            break;
    if (eval == t.n || cw_at_boundary(&t, from, eval))
        return 0;                           /* came too early or too late */
    for (int i = eval - 1; i >= from; i--) {
        uintptr_t entry = cw_function_of(t.ip[i]);
        const cw_module *m = cw_module_of(t.ip[i] - 1);
        if (cw_in_set(CW_SET_HELPER, entry))
            continue;
        if (cw_add_to_set(CW_SET_WAIT, entry) != 0)
            return 0;
        for (int k = i - 1; k >= from && m && m->cls == CW_ALLOWED && cw_module_of(t.ip[k] - 1) == m; k--)
            cw_add_to_set(CW_SET_WAIT, cw_function_of(t.ip[k]));
        return 1;
    }
    return 0;
}

/* "module+offset (function start)" lines of the current native stack; for reports and tests. */
static PyObject *cw_describe(uintptr_t base) {
    cw_trace t;
    PyObject *list = PyList_New(0);
    if (!list)
        return NULL;
    cw_load_modules();
    cw_unwind(&t, 0, base);
    for (int i = 0; i < t.n; i++) {
        Dl_info d;
        const cw_module *m = cw_module_of(t.ip[i] - 1);
        uintptr_t entry = cw_function_of(t.ip[i]);
        const char *name = dladdr((void *)entry, &d) && d.dli_sname && (uintptr_t)d.dli_saddr == entry ? d.dli_sname : "";
        PyObject *line = PyUnicode_FromFormat("%s+%p %s%s%s", m ? m->name : "?",
            (void *)(entry - (m ? m->lo : 0)), name, cw_is_eval(entry) ? " [eval]" : "",
            cw_in_set(CW_SET_WAIT, entry) ? " [wait]" : cw_in_set(CW_SET_HELPER, entry) ? " [helper]" : "");
        if (!line || PyList_Append(list, line) < 0) {
            Py_XDECREF(line);
            Py_DECREF(list);
            return NULL;
        }
        Py_DECREF(line);
    }
    return list;
}

#endif
