// A red-black tree ordered by address. Leaves are one shared black node, so that no step has to ask whether a node is
// there; removing uses its parent link as a scratch place.

#include "CBaselines.h"

#include <errno.h>

#include "guard.h"
#include "memory.h"

enum { LOWER = 0, HIGHER = 1, NODES_IN_CHUNK = 1023 };

struct node {
    struct node *child[2];
    struct node *parent;
    uint64_t first, last;
    unsigned char *memory;
    uint32_t pins;
    uint8_t rights;
    bool is_red, is_blocked;
};

struct chunk {
    struct chunk *next;
    struct node nodes[NODES_IN_CHUNK];
};

struct tree {
    struct guard guard;
    struct node *root;
    struct node leaf;
    // Linked by their lower child.
    struct node *free_nodes;
    struct chunk *chunks;
};

struct tree *tree_create(bool locked)
{
    struct tree *tree = allocate_zeroed(_Alignof(struct tree), sizeof(struct tree));
    guard_initialize(&tree->guard, locked);
    tree->root = &tree->leaf;
    return tree;
}

void tree_destroy(struct tree *tree)
{
    while (tree->chunks) {
        struct chunk *chunk = tree->chunks;
        tree->chunks = chunk->next;
        free(chunk);
    }
    pthread_mutex_destroy(&tree->guard.mutex);
    free(tree);
}

static struct node *take_node(struct tree *tree)
{
    if (!tree->free_nodes) {
        struct chunk *chunk = allocate_zeroed(_Alignof(struct chunk), sizeof(struct chunk));
        chunk->next = tree->chunks;
        tree->chunks = chunk;
        for (size_t i = NODES_IN_CHUNK; i-- > 0;) {
            chunk->nodes[i].child[LOWER] = tree->free_nodes;
            tree->free_nodes = &chunk->nodes[i];
        }
    }
    struct node *node = tree->free_nodes;
    tree->free_nodes = node->child[LOWER];
    return node;
}

static void put_back(struct tree *tree, struct node *node)
{
    node->child[LOWER] = tree->free_nodes;
    tree->free_nodes = node;
}

static inline int side_of(const struct node *node)
{
    return node == node->parent->child[HIGHER];
}

// Lets `other` take the place that `node` has below its parent.
static void replace(struct tree *tree, struct node *node, struct node *other)
{
    other->parent = node->parent;
    if (node->parent == &tree->leaf)
        tree->root = other;
    else
        node->parent->child[side_of(node)] = other;
}

// Lets a node sink to one side; its child on the other side takes its place.
static void rotate(struct tree *tree, struct node *node, int side)
{
    struct node *riser = node->child[!side];
    node->child[!side] = riser->child[side];
    if (riser->child[side] != &tree->leaf)
        riser->child[side]->parent = node;
    replace(tree, node, riser);
    riser->child[side] = node;
    node->parent = riser;
}

static void balance_after_insertion(struct tree *tree, struct node *node)
{
    while (node->parent->is_red) {
        struct node *parent = node->parent, *grandparent = parent->parent;
        int side = side_of(parent);
        struct node *uncle = grandparent->child[!side];
        if (uncle->is_red) {
            parent->is_red = uncle->is_red = false;
            grandparent->is_red = true;
            node = grandparent;
            continue;
        }
        if (side_of(node) != side) {
            rotate(tree, parent, side);
            node = parent;
            parent = node->parent;
        }
        parent->is_red = false;
        grandparent->is_red = true;
        rotate(tree, grandparent, !side);
    }
    tree->root->is_red = false;
}

// The paths through `node` have one black node too few.
static void balance_after_removal(struct tree *tree, struct node *node)
{
    while (node != tree->root && !node->is_red) {
        struct node *parent = node->parent;
        int side = side_of(node);
        struct node *sibling = parent->child[!side];
        if (sibling->is_red) {
            sibling->is_red = false;
            parent->is_red = true;
            rotate(tree, parent, side);
            sibling = parent->child[!side];
        }
        if (!sibling->child[LOWER]->is_red && !sibling->child[HIGHER]->is_red) {
            sibling->is_red = true;
            node = parent;
            continue;
        }
        if (!sibling->child[!side]->is_red) {
            sibling->child[side]->is_red = false;
            sibling->is_red = true;
            rotate(tree, sibling, !side);
            sibling = parent->child[!side];
        }
        sibling->is_red = parent->is_red;
        parent->is_red = false;
        sibling->child[!side]->is_red = false;
        rotate(tree, parent, side);
        node = tree->root;
    }
    node->is_red = false;
}

static struct node *lowest(struct tree *tree, struct node *node)
{
    while (node->child[LOWER] != &tree->leaf)
        node = node->child[LOWER];
    return node;
}

static struct node *successor(struct tree *tree, struct node *node)
{
    if (node->child[HIGHER] != &tree->leaf)
        return lowest(tree, node->child[HIGHER]);
    while (node->parent != &tree->leaf && side_of(node) == HIGHER)
        node = node->parent;
    return node->parent;
}

static void remove_node(struct tree *tree, struct node *node)
{
    struct node *heir;
    bool removed_red = node->is_red;
    if (node->child[LOWER] == &tree->leaf || node->child[HIGHER] == &tree->leaf) {
        heir = node->child[node->child[LOWER] == &tree->leaf];
        replace(tree, node, heir);
    } else {
        struct node *next = lowest(tree, node->child[HIGHER]);
        removed_red = next->is_red;
        heir = next->child[HIGHER];
        if (next->parent == node) {
            heir->parent = next;
        } else {
            replace(tree, next, heir);
            next->child[HIGHER] = node->child[HIGHER];
            next->child[HIGHER]->parent = next;
        }
        replace(tree, node, next);
        next->child[LOWER] = node->child[LOWER];
        next->child[LOWER]->parent = next;
        next->is_red = node->is_red;
    }
    if (!removed_red)
        balance_after_removal(tree, heir);
    put_back(tree, node);
}

// The lowest mapping that ends at `iova` or above; the leaf when there is none.
static struct node *first_not_below(struct tree *tree, uint64_t iova)
{
    struct node *found = &tree->leaf;
    for (struct node *node = tree->root; node != &tree->leaf;) {
        if (node->last >= iova) {
            found = node;
            node = node->child[LOWER];
        } else {
            node = node->child[HIGHER];
        }
    }
    return found;
}

static inline int find(struct tree *tree, uint64_t iova, size_t count, uint8_t rights, struct node **found)
{
    struct node *node = tree->root;
    while (node != &tree->leaf) {
        if (iova < node->first)
            node = node->child[LOWER];
        else if (iova > node->last)
            node = node->child[HIGHER];
        else
            break;
    }
    if (node == &tree->leaf || node->last - iova < count - 1)
        return ENOENT;
    if (node->is_blocked)
        return EINVAL;
    if ((node->rights & rights) != rights)
        return EPERM;
    *found = node;
    return 0;
}

int tree_map(struct tree *tree, uint64_t first, uint64_t last, unsigned char *memory, uint8_t rights)
{
    guard_lock(&tree->guard);
    struct node *parent = &tree->leaf;
    int side = LOWER;
    for (struct node *node = tree->root; node != &tree->leaf; node = node->child[side]) {
        if (first <= node->last && node->first <= last) {
            guard_unlock(&tree->guard);
            return EEXIST;
        }
        parent = node;
        side = first > node->last;
    }
    struct node *node = take_node(tree);
    *node = (struct node) {
        .child = { &tree->leaf, &tree->leaf }, .parent = parent,
        .first = first, .last = last, .memory = memory, .rights = rights, .is_red = true,
    };
    if (parent == &tree->leaf)
        tree->root = node;
    else
        parent->child[side] = node;
    balance_after_insertion(tree, node);
    guard_unlock(&tree->guard);
    return 0;
}

int tree_unmap(struct tree *tree, uint64_t first, uint64_t last, uint64_t *byte_count)
{
    int status = 0;
    *byte_count = 0;
    guard_lock(&tree->guard);
    struct node *node = first_not_below(tree, first);
    if (node == &tree->leaf || node->first > last)
        status = ENOENT;
    while (status == 0 && node != &tree->leaf && node->first <= last) {
        if (node->first < first || node->last > last) {
            status = ENOENT;
        } else if (node->pins > 0) {
            node->is_blocked = true;
            status = EDEADLK;
        } else {
            struct node *next = successor(tree, node);
            *byte_count += node->last - node->first + 1;
            remove_node(tree, node);
            node = next;
        }
    }
    guard_unlock(&tree->guard);
    return status;
}

int tree_load(struct tree *tree, uint64_t iova, uint64_t *value)
{
    struct node *node;
    guard_lock(&tree->guard);
    int status = find(tree, iova, sizeof(*value), BASELINE_READ, &node);
    if (status == 0)
        memcpy(value, node->memory + (iova - node->first), sizeof(*value));
    guard_unlock(&tree->guard);
    return status;
}

int tree_read(struct tree *tree, uint64_t iova, void *bytes, size_t count)
{
    struct node *node;
    guard_lock(&tree->guard);
    int status = find(tree, iova, count, BASELINE_READ, &node);
    if (status == 0)
        memcpy(bytes, node->memory + (iova - node->first), count);
    guard_unlock(&tree->guard);
    return status;
}

int tree_pin(struct tree *tree, uint64_t iova, size_t count, uint8_t rights, struct baseline_pin *pin)
{
    struct node *node;
    guard_lock(&tree->guard);
    int status = find(tree, iova, count, rights, &node);
    if (status == 0) {
        node->pins++;
        *pin = (struct baseline_pin) { .memory = node->memory + (iova - node->first), .token = (uintptr_t)node };
    }
    guard_unlock(&tree->guard);
    return status;
}

void tree_unpin(struct tree *tree, struct baseline_pin pin)
{
    guard_lock(&tree->guard);
    ((struct node *)pin.token)->pins--;
    guard_unlock(&tree->guard);
}

// The number of black nodes on every path from `node` down, or -1 when something is wrong below it.
static int black_height(const struct tree *tree, const struct node *node)
{
    if (node == &tree->leaf)
        return 0;
    for (int side = LOWER; side <= HIGHER; side++) {
        const struct node *child = node->child[side];
        if (child == &tree->leaf)
            continue;
        bool is_ordered = side == LOWER ? child->last < node->first : child->first > node->last;
        if (!is_ordered || child->parent != node || (node->is_red && child->is_red))
            return -1;
    }
    int lower = black_height(tree, node->child[LOWER]), higher = black_height(tree, node->child[HIGHER]);
    return lower < 0 || lower != higher ? -1 : lower + !node->is_red;
}

bool tree_is_sound(struct tree *tree)
{
    guard_lock(&tree->guard);
    bool is_sound = !tree->root->is_red && !tree->leaf.is_red && black_height(tree, tree->root) >= 0;
    guard_unlock(&tree->guard);
    return is_sound;
}
