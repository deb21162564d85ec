/* A stand-in for NVIDIA's library of one GPU, GPU-stub; what it leaves out is "function not found". */
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, NOT_SUPPORTED = 3, NOT_FOUND = 6, NO_DRIVER = 9 };
typedef void *gpu;

static unsigned long long energy_mj = 1000000;

int nvmlInitWithFlags(unsigned flags) { return getenv("STUB_NO_DRIVER") ? NO_DRIVER : SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { return "stub"; }

int nvmlSystemGetDriverVersion(char *text, unsigned length) {
    strncpy(text, "555.42", length);
    return SUCCESS;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, gpu *handle) {
    *handle = &energy_mj;
    return strcmp(uuid, "GPU-stub") ? NOT_FOUND : SUCCESS;
}

int nvmlDeviceGetClockInfo(gpu handle, unsigned kind, unsigned *mhz) { /* 1: SM, 2: memory */
    *mhz = kind == 1 ? 1980 : 2619;
    return SUCCESS;
}

int nvmlDeviceGetPowerUsage(gpu handle, unsigned *mw) {
    *mw = 123456;
    return SUCCESS;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(gpu handle, unsigned long long *bits) {
    *bits = 0x4 | 0x40 | 0x10000;
    return SUCCESS;
}

int nvmlDeviceGetTotalEnergyConsumption(gpu handle, unsigned long long *mj) {
    *mj = energy_mj += 1500;
    return getenv("STUB_NO_ENERGY") ? NOT_SUPPORTED : SUCCESS;
}

int nvmlDeviceGetMigMode(gpu handle, unsigned *current, unsigned *pending) {
    *current = *pending = getenv("STUB_MIG") != NULL;
    return SUCCESS;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = 1;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, gpu *handle) {
    *handle = &energy_mj;
    return SUCCESS;
}

int nvmlDeviceGetUUID(gpu handle, char *text, unsigned length) {
    strncpy(text, "GPU-stub", length);
    return SUCCESS;
}

int nvmlDeviceGetName(gpu handle, char *text, unsigned length) {
    strncpy(text, "Stub 100", length);
    return SUCCESS;
}

int nvmlDeviceGetPersistenceMode(gpu handle, unsigned *mode) {
    *mode = 0;
    return SUCCESS;
}

int nvmlDeviceGetMaxClockInfo(gpu handle, unsigned kind, unsigned *mhz) {
    *mhz = 2000;
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(gpu handle, unsigned *gpu_and_memory) {
    gpu_and_memory[0] = 25;
    gpu_and_memory[1] = 5;
    return SUCCESS;
}
