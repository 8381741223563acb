# A judge's agreement and corrected gaps, missing outcomes and drift, on labelled.csv, from lm with
# sandwich, manova, fisher.test and formulas as printed. Run from this folder; prints judges.json.
suppressMessages({library(sandwich); library(jsonlite)})

all <- read.csv("data/labelled.csv", stringsAsFactors = FALSE)
all$train <- as.numeric(all$arm == "train")
d <- all[!is.na(all$y), ]
wmean <- function(x, w) sum(w * x) / sum(w)

# PPI++ of one arm in its own form: lam on the trials without a label, then the labelled residual.
ppi <- function(d, h, w) {
  known <- !is.na(h)
  n <- sum(known); N <- sum(!known)
  f <- d$y[known]; y <- h[known]; w <- w[known]
  lam <- (wmean(f * y, w) - wmean(f, w) * wmean(y, w)) /
    ((1 + n / N) * (wmean(f^2, w) - wmean(f, w)^2))
  lam <- min(1, max(0, lam))
  list(lam = lam, estimate = lam * mean(d$y[!known]) + mean(y - lam * f))
}

# Pseudo-outcomes with slope s on all trials, so that lm and sandwich can be run on them.
pseudo <- function(d, h, w, slope) {
  known <- !is.na(h)
  rest <- h - slope * d$y
  centre <- wmean(rest[known], w[known])
  slope * d$y + centre + ifelse(known, w * (rest - centre), 0)
}
corrected <- function(d, h, w, tuned) {
  d$star <- NA
  lam <- c()
  for (a in c("train", "deploy")) {
    i <- d$arm == a
    known <- !is.na(h[i])
    l <- ppi(d[i, ], h[i], w[i])$lam
    lam <- c(lam, l)
    slope <- if (tuned) l * length(known) / sum(!known) else 1
    d$star[i] <- pseudo(d[i, ], h[i], w[i], slope)
  }
  m <- lm(star ~ train, d)
  se <- sqrt(diag(vcovCL(m, d$query, type = "HC0", cadjust = TRUE)))
  per <- function(e) {
    with(aggregate(star ~ query + train, e, mean),
         tapply(star[train == 1], query[train == 1], c) - tapply(star[train == 0], query[train == 0], c))
  }
  paired <- t.test(per(d))
  one <- per(d[d$condition == 2, ]); zero <- per(d[d$condition == 1, ])
  common <- intersect(names(one), names(zero))
  effect <- t.test(one[common] - zero[common])
  averaged <- lm(star ~ train * (factor(condition) + factor(pass)), d)
  spread <- vcovCL(averaged, d$query, type = "HC0", cadjust = TRUE)
  removed <- "train:factor(condition)2"
  list(averaged = coef(averaged)[[removed]], averaged_se = sqrt(spread[removed, removed]),
       lam = lam, rate_deploy = coef(m)[[1]], trial_gap = coef(m)[[2]], trial_se = se[[2]],
       gap = paired$estimate[[1]], gap_se = paired$stderr,
       effect = effect$estimate[[1]], effect_se = effect$stderr, effect_queries = length(common))
}
equal <- ave(as.numeric(!is.na(d$human_random)), d$arm, FUN = mean)
ppi_form <- sapply(c("train", "deploy"), function(a) {
  i <- d$arm == a
  ppi(d[i, ], d$human_random[i], 1 / equal[i])$estimate
})

# Fleiss, Cohen and Everitt (1969), as printed with both margins.
kappa <- function(a, b) {
  p <- prop.table(table(a, b))
  po <- sum(diag(p)); r <- rowSums(p); k <- colSums(p); pe <- sum(r * k)
  first <- sum(diag(p) * ((1 - pe) - (r + k) * (1 - po))^2)
  second <- 0
  for (i in seq_along(r)) for (j in seq_along(k)) {
    if (i != j) second <- second + p[i, j] * (k[i] + r[j])^2
  }
  v <- (first + (1 - po)^2 * second - (po * pe - 2 * pe + po)^2) / (length(a) * (1 - pe)^4)
  c((po - pe) / (1 - pe), sqrt(v))
}
lab <- d[!is.na(d$human_random), ]
kind <- function(positive) {
  e <- lab[lab$human_random == positive, ]
  fisher.test(table(e$arm, e$y == e$human_random))$p.value
}
# Weighted shares of right verdicts: a weighted lm per kind of label, errors by query.
weighted <- d[!is.na(d$human), ]
weighted$right <- as.numeric(weighted$y == weighted$human)
errs <- function(positive) {
  e <- weighted[weighted$human == positive, ]
  # Each arm's weights to 1, so that both shares are means of their own.
  m <- lm(right ~ train, e, weights = 1 / probability)
  c(coef(m)[[2]], sqrt(vcovCL(m, e$query, type = "HC0", cadjust = TRUE)[2, 2]),
    coef(m)[[1]], length(unique(e$query)))
}

all$lost <- as.numeric(is.na(all$y))
m <- lm(lost ~ train, all)
missing <- c(coef(m), sqrt(vcovCL(m, all$query, type = "HC0", cadjust = TRUE)[2, 2]))

by_block <- function(d, block) {
  r <- aggregate(list(y = d$y), list(query = d$query, block = d[[block]], train = d$train), mean)
  w <- merge(r[r$train == 1, ], r[r$train == 0, ], by = c("query", "block"))
  data.frame(query = w$query, block = w$block, d = w$y.x - w$y.y)
}
nested <- by_block(d, "block")
a <- anova(lm(d ~ factor(block), nested))
crossed <- reshape(by_block(d, "pass"), idvar = "query", timevar = "block", direction = "wide")
crossed <- as.matrix(crossed[complete.cases(crossed), -1])
change <- crossed[, -1] - crossed[, 1]
h <- anova(lm(change ~ 1), test = "Hotelling-Lawley")

out <- list(
  versions = list(R = as.character(getRversion()),
                  sandwich = as.character(packageVersion("sandwich"))),
  random_ppi = corrected(d, d$human_random, 1 / equal, TRUE),
  random_difference = corrected(d, d$human_random, 1 / equal, FALSE),
  stratified_ppi = corrected(d, d$human, 1 / d$probability, TRUE),
  stratified_difference = corrected(d, d$human, 1 / d$probability, FALSE),
  ppi_rates = unname(ppi_form),
  kappa = kappa(lab$y, lab$human_random),
  fisher = c(kind(1), kind(0)),
  sensitivity = errs(1), specificity = errs(0),
  missing = unname(missing),
  drift = c(a$`F value`[1], a$Df, a$`Pr(>F)`[1]),
  crossed = c(h$`approx F`[1], h$`num Df`[1], h$`den Df`[1], h$`Pr(>F)`[1], nrow(crossed))
)
cat(toJSON(out, digits = 15, auto_unbox = TRUE), "\n")
